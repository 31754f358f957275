"""Weights, masks and reductions leave no NaN, and are Keras's wherever Keras's own are finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from nanguard.backend.predictions import set_mask
from nanguard.losses import Huber, Loss, MeanSquaredError, SparseCategoricalCrossentropy, huber
from nanguard.losses._base import REDUCTIONS, finite_sum, same_rank


def numbers(limit: float = 1e3) -> st.SearchStrategy[float]:
    """Gives ordinary numbers of float32."""
    return st.floats(-limit, limit, width=32)


@given(st.data(), st.integers(1, 5), st.integers(1, 4), st.sampled_from(["sum_over_batch_size", "sum", "none"]))
@settings(max_examples=60)
def test_weights_count_as_in_keras(data: st.DataObject, rows: int, size: int, reduction: str) -> None:
    """Whatever the shape and the weights, 0 and negative ones too, a reduction gives what Keras's gives."""
    y_true, y_pred = (data.draw(arrays.arrays(np.float32, (rows, size), elements=numbers())) for _ in range(2))
    shape = data.draw(st.sampled_from([(rows,), (rows, 1)]))
    weights = data.draw(st.none() | arrays.arrays(np.float32, shape, elements=numbers(8)))
    theirs = keras.losses.MeanSquaredError(reduction=reduction)(y_true, y_pred, weights)
    ours = MeanSquaredError(reduction=reduction)(y_true, y_pred, weights)
    # Weights of shape (rows, 1) give Keras's unreduced values that shape; ours keep their own.
    np.testing.assert_allclose(np.ravel(ours), np.ravel(theirs), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("harm", [np.nan, np.inf, -3e38])
def test_a_sample_of_weight_0_takes_no_part(reduction: str | None, harm: float) -> None:
    """A row of weight 0 changes neither the value nor a gradient, whatever it holds."""
    y_true = tf.constant([[1.0, 2.0], [harm, 0.0], [3.0, harm]])
    y_pred = tf.constant([[2.0, 2.0], [0.0, harm], [harm, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        values = MeanSquaredError(reduction=reduction)(y_true, y_pred, [1.0, 0.0, 0.0])
    slope = tape.gradient(values, y_pred).numpy()
    assert np.isfinite(values).all()
    assert slope[0, 0] > 0
    assert (slope[1:] == 0).all()


@pytest.mark.parametrize("reduction", [each for each in REDUCTIONS if each not in ("none", None)])
@pytest.mark.parametrize("kind", ["no rows", "weights of 0", "all masked"])
def test_nothing_left_gives_0(reduction: str, kind: str) -> None:
    """A batch that is empty, or of which nothing is left, gives 0 with gradients of 0."""
    y_pred = tf.ones([0, 3]) if kind == "no rows" else tf.constant([[1.0, np.nan, 2.0], [3.0, 4.0, np.inf]])
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        prediction = tf.identity(y_pred)
        if kind == "all masked":
            set_mask(prediction, tf.zeros([2], tf.bool))
        weights = [0.0, 0.0] if kind == "weights of 0" else None
        value = MeanSquaredError(reduction=reduction)(tf.zeros_like(y_pred), prediction, weights)
    assert value.numpy() == 0
    assert (tape.gradient(value, y_pred).numpy() == 0).all()


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none"])
def test_masks_count_as_in_keras(reduction: str) -> None:
    """A mask on the prediction leaves steps out of sum and mean as it does in Keras, with weights or without."""
    y_true, y_pred = np.zeros((2, 3, 4), "float32"), np.arange(24, dtype="float32").reshape(2, 3, 4)
    for weights in (None, np.array([1.0, 2.0], "float32")[:, None] * np.ones((2, 3), "float32")):
        results = []
        for module in (keras.losses.MeanSquaredError, MeanSquaredError):
            prediction = set_mask(tf.identity(y_pred), tf.constant([[True, True, False], [True, False, False]]))
            results.append(np.asarray(module(reduction=reduction)(y_true, prediction, weights)))
        np.testing.assert_allclose(results[1], results[0], rtol=1e-6)


def test_a_mask_of_the_loss_counts_too() -> None:
    """The mean is over what both the prediction's mask and the loss's own keep."""
    y_pred = set_mask(tf.zeros([4, 3]), tf.constant([True, True, False, True]))
    loss = SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    np.testing.assert_allclose(loss([0, -1, 1, 2], y_pred), np.log(3), rtol=1e-6)


def test_a_sum_that_overflows_is_cut_and_its_mean_is_right() -> None:
    """The mean of two huge values is finite though their sum is not, and the sum is the largest number."""
    huge = tf.constant([3e38, 1e38])
    assert finite_sum(huge).numpy() == np.finfo("float32").max
    np.testing.assert_allclose(finite_sum(huge, tf.constant(2.0)), 2e38, rtol=1e-6)
    half = MeanSquaredError(dtype="float16")(np.ones((70000, 1)), np.zeros((70000, 1)))
    assert half.numpy() == 1


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
def test_a_loss_that_overflows_can_come_down(reduction: str) -> None:
    """Where the sum or a weighted value was cut, the gradient is still there, and finite."""
    y_pred = tf.constant([[3e38], [-3e38]])
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = MeanSquaredError(reduction=reduction)(tf.zeros_like(y_pred), y_pred, [2.0, 3.0])
    slope = tape.gradient(value, y_pred).numpy()[:, 0]
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert slope[0] > 0 > slope[1]


@pytest.mark.parametrize(("true", "pred"), [((4,), (4, 1)), ((4, 1), (4,)), ((4, 2, 1), (4, 2)), ((4, 2), (4, 2, 1))])
def test_a_last_axis_of_1_is_no_difference(true: tuple[int, ...], pred: tuple[int, ...]) -> None:
    """Targets and predictions that differ by a last axis of size 1 give what Keras gives of them."""
    y_true, y_pred = np.ones(true, "float32"), np.arange(np.prod(pred), dtype="float32").reshape(pred)
    matched = same_rank(tf.constant(y_true), tf.constant(y_pred))
    assert matched[0].shape == matched[1].shape
    ours, theirs = MeanSquaredError()(y_true, y_pred), keras.losses.MeanSquaredError()(y_true, y_pred)
    assert ours.numpy() == theirs.numpy()


def test_arguments_are_checked_where_they_are_given() -> None:
    """A reduction that does not exist, and an argument that is not one, are errors that say what there is."""
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        Loss(reduction="average")
    with pytest.raises(TypeError, match=r"Huber: .*It takes \(delta"):
        Huber(width=2.0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("loss", [Huber(0.5, name="mine"), huber], ids=["class", "function"])
def test_a_compiled_model_saves_and_loads(loss: Any, tmp_path: Path) -> None:
    """A model compiled with a loss class or function trains, saves, and loads with the same loss."""
    if loss is huber and keras.saving.serialize_keras_object(huber)["config"] == "huber":
        pytest.skip("This Keras saves a function by its bare name, and so loads its own.")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss)
    inputs, targets = np.ones((4, 2)), np.ones((4, 1))
    model.fit(inputs, targets, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss is loss or loaded.loss.get_config() == loss.get_config()
    assert loaded.evaluate(inputs, targets, verbose=0) == model.evaluate(inputs, targets, verbose=0)
