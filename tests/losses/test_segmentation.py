"""Overlap losses against sums written out, and at regions in which nothing is."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

RNG = np.random.default_rng(0)


def sums(t, p):
    return (t * p).sum((1, 2)), (t * (1 - p)).sum((1, 2)), ((1 - t) * p).sum((1, 2))


@pytest.fixture
def images():
    return RNG.integers(0, 2, (4, 5, 6, 3)).astype("float64"), RNG.random((4, 5, 6, 3))


def test_jaccard_is_one_minus_the_share_of_the_union(images):
    """Per image, the mean over classes of 1 - (intersection + 1) / (union + 1)."""
    hit, missed, invented = sums(*images)
    wanted = (1 - (hit + 1) / (hit + missed + invented + 1)).mean(-1)
    np.testing.assert_allclose(losses.jaccard(*images), wanted, rtol=1e-12)


def test_focal_tversky_weighs_what_was_missed_by_alpha(images):
    """Per image, the mean over classes of (1 - TI) ** (1 / gamma)."""
    hit, missed, invented = sums(*images)
    index = (hit + 0.5) / (hit + 0.6 * missed + 0.4 * invented + 0.5)
    got = losses.focal_tversky(*images, alpha=0.6, beta=0.4, gamma=2.0, smooth=0.5)
    np.testing.assert_allclose(got, ((1 - index) ** 0.5).mean(-1), rtol=1e-12)


def test_generalized_dice_weighs_classes_by_the_inverse_square_of_their_size(images):
    """Per image, one quotient over all classes."""
    t, p = images
    hit, missed, invented = sums(t, p)
    weight = 1 / (hit + missed) ** 2
    wanted = 1 - (2 * (weight * hit).sum(-1) + 1) / ((weight * (2 * hit + missed + invented)).sum(-1) + 1)
    np.testing.assert_allclose(losses.generalized_dice(t, p), wanted, rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.jaccard, losses.focal_tversky, losses.generalized_dice])
def test_an_empty_region_gives_0_and_what_is_falsely_seen_of_it_is_unlearnt(loss):
    """Nothing in truth and prediction is a perfect prediction; anything in the prediction has a positive slope."""
    nothing = np.zeros((2, 4, 4, 2), "float32")
    assert not np.any(loss(nothing, nothing, smooth=0.0))
    seen = tf.constant(nothing + 0.1)
    with tf.GradientTape() as tape:
        tape.watch(seen)
        total = tf.reduce_sum(loss(nothing, seen))
    assert np.all(tape.gradient(total, seen) > 0)


def test_axis_chooses_what_is_one_region(images):
    """All images as one region give a scalar, all classes as one a value for each image."""
    t, p = images
    assert losses.jaccard(t, p, axis=(0, 1, 2)).shape == ()
    together = losses.jaccard(t.reshape(4, -1), p.reshape(4, -1))
    np.testing.assert_allclose(losses.jaccard(t, p, axis=(1, 2, 3)), together, rtol=1e-12)


def test_a_perfect_prediction_has_no_infinite_slope():
    """The root of the focal Tversky loss has the slope 0 there."""
    t = tf.constant(RNG.integers(0, 2, (2, 9)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(t)
        total = tf.reduce_sum(losses.focal_tversky(tf.identity(t.numpy()), t))
    assert total == 0
    assert not np.any(tape.gradient(total, t))


def test_pixels_of_weight_0_take_no_part(images):
    """A NaN in a pixel that is masked reaches neither the loss nor the other pixels."""
    t, p = (x.astype("float32") for x in images)
    weight = np.ones((4, 5, 6), "float32")
    weight[:, 2:] = 0
    broken = p.copy()
    broken[:, 2:] = np.nan
    got = losses.Jaccard()(t, broken, sample_weight=weight)
    np.testing.assert_allclose(got, losses.Jaccard()(t[:, :2], p[:, :2]), rtol=1e-6)


@pytest.mark.parametrize("argument", ["alpha", "beta", "smooth"])
def test_weights_below_0_are_refused(argument):
    """The message names the argument."""
    with pytest.raises(ValueError, match=argument):
        losses.focal_tversky([[1.0]], [[1.0]], **{argument: -1.0})


@pytest.mark.parametrize("loss", [losses.jaccard, losses.generalized_dice])
def test_what_is_nearly_right_has_the_digits_of_its_error(loss):
    """An error of 1e-7 among ones is not lost in their rounding: the loss of twice the error is twice as large."""
    t = np.array([[0.0, 1.0, 1.0, 1.0]], "float32")
    one, two = (loss(t, np.array([[error, 1.0, 1.0, 1.0]], "float32")).numpy() for error in (1e-7, 2e-7))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    assert one > 0
