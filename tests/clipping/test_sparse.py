"""Gradients of a few rows: slices of one row count as their sum."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from kinds import GRADIENT_KINDS, KINDS, MODES

from nanguard import clipping
from nanguard.backend.updates import scaled_updates

INDICES = [4, 1, 4, 0, 1, 4]


def slices(values, indices=INDICES):
    return tf.IndexedSlices(tf.convert_to_tensor(values), tf.constant(indices), tf.constant([6, 3]))


@pytest.mark.parametrize("kind", GRADIENT_KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_sparse_is_clipped_as_its_sum(kind, mode):
    """A sparse gradient is clipped to what the dense one is, row units of AGC apart, and stays sparse."""
    rng = np.random.default_rng(0)
    variable = keras.Variable(rng.normal(size=(6, 3)))
    sparse, dense = KINDS[kind](), KINDS[kind]()
    sparse.build([variable])
    dense.build([variable])

    def step(values):
        return sparse([slices(values)], [variable])[0]

    step = step if MODES[mode] is None else tf.function(step, **MODES[mode])
    for size in [1.0] * 8 + [1e-3, 40.0, 1e30]:
        values = tf.constant((size * rng.normal(size=(6, 3))).astype("float32"))
        got = step(values)
        assert isinstance(got, tf.IndexedSlices)
        got = tf.math.unsorted_segment_sum(got.values, got.indices, 6).numpy()
        whole = tf.math.unsorted_segment_sum(values, INDICES, 6)
        if kind == "AGC":
            norms = np.linalg.norm(whole.numpy().astype("float64"), axis=1)
            limits = np.linalg.norm(variable.numpy(), axis=1)
            want = whole.numpy() * np.minimum(1, limits / np.where(norms > 0, norms, 1))[:, None]
        else:
            want = dense([whole], [variable])[0].numpy()
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("kind", ["ClipByValue", "ClipByNorm", "ClipByGlobalNorm", "AGC"])
def test_small_sparse_is_as_it_came(kind):
    """Slices within the limit come out as they are, each in its place."""
    values = np.full((6, 3), 1e-4, "float32")
    got = KINDS[kind]()([slices(values)], [keras.Variable(np.ones((6, 3)))])[0]
    np.testing.assert_array_equal(got.values.numpy(), values)
    np.testing.assert_array_equal(got.indices.numpy(), INDICES)


def test_a_nan_row_stays_alone():
    """A NaN in a slice stays in its row."""
    values = np.full((6, 3), 100.0, "float32")
    values[3, 0] = np.nan
    got = clipping.ClipByGlobalNorm(1.0)([slices(values)])[0]
    assert np.isnan(got.values.numpy()).sum() == 1


def test_no_slices():
    """A sparse gradient without slices is no trouble."""
    empty = tf.IndexedSlices(tf.zeros([0, 3]), tf.zeros([0], tf.int64), tf.constant([6, 3]))
    for kind in GRADIENT_KINDS:
        assert KINDS[kind]()([empty], [tf.Variable(tf.ones([6, 3]))])[0].values.shape == (0, 3)


def test_stable_adamw_takes_a_sparse_gradient():
    """The rate is that of the dense gradient."""
    values = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    variable, adam = keras.Variable(np.ones((6, 3))), keras.optimizers.Adam()
    with scaled_updates(adam, clipping.StableAdamW()):
        adam.apply([tf.constant(values)], [variable])
    whole = tf.math.unsorted_segment_sum(10 * values, INDICES, 6)
    clip = clipping.StableAdamW()
    np.testing.assert_allclose(
        clip.rate(adam, slices(10 * values), variable), clip.rate(adam, whole, variable), rtol=1e-6
    )
