"""Finite in, finite out: value, slope and square of the slope of every loss of Keras's set, whatever the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from nanguard import losses
from nanguard.intervals import float_format

CLASSES = 5
Loss = Callable[[Any, Any], tf.Tensor]


def with_arguments(name: str, **arguments: Any) -> Loss:
    """Gives a loss with further arguments."""
    return lambda y_true, y_pred: getattr(losses, name)(y_true, y_pred, **arguments)


PAIRS: dict[str, Loss] = {
    name: getattr(losses, name)
    for name in (
        "mean_squared_error",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_logarithmic_error",
        "huber",
        "log_cosh",
        "cosine_similarity",
        "hinge",
        "squared_hinge",
        "categorical_hinge",
        "kl_divergence",
        "poisson",
        "binary_crossentropy",
        "binary_focal_crossentropy",
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
    )
}
PAIRS |= {
    f"{name} {arguments}": with_arguments(name, **arguments)
    for name in ("binary_focal_crossentropy", "categorical_focal_crossentropy")
    for arguments in ({"gamma": 0.3}, {"gamma": 1.5, "from_logits": True}, {"from_logits": True})
}
PAIRS |= {
    "huber delta": with_arguments("huber", delta=1e30),
    "binary logits": with_arguments("binary_crossentropy", from_logits=True),
    "categorical logits": with_arguments("categorical_crossentropy", from_logits=True, label_smoothing=0.1),
    "dice": with_arguments("dice", axis=-1),
    "dice of all": losses.dice,
    "tversky": with_arguments("tversky", alpha=0.3, beta=0.9, axis=-1),
}
LABELLED: dict[str, Loss] = {
    "sparse": losses.sparse_categorical_crossentropy,
    "sparse logits": with_arguments("sparse_categorical_crossentropy", from_logits=True),
    "sparse ignoring": with_arguments("sparse_categorical_crossentropy", ignore_class=2),
    "generalized": with_arguments("categorical_generalized_cross_entropy", q=0.3),
    "circle": losses.circle,
}
LOSSES = PAIRS | LABELLED


def special_numbers(dtype: str) -> np.ndarray:
    """Gives numbers where formulas break: the ends of the format and their roots, 0 and 1 and what is next to them."""
    limits = float_format(dtype)
    ends = [limits.max, limits.max / 2, limits.max**0.5, limits.max**0.25, 1e3, 104.0, 88.0, 2.0, 1 + limits.eps, 1.0]
    small = [1 - limits.eps / 2, 1 - limits.eps, 0.5, 1e-3, limits.eps, limits.floor, limits.smallest_normal, 0.0]
    return np.array([*ends, *small, *(-each for each in ends + small), 1e-7, limits.smallest_normal / 4])


def batch(dtype: str, labels: bool, rows: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives targets and predictions: special numbers in any mixture, saturated ones against one-hot targets too."""
    random, special = np.random.default_rng(seed), special_numbers(dtype)
    y_true, y_pred = random.choice(special, (rows, CLASSES)), random.choice(special, (rows, CLASSES))
    half, quarter = rows // 2, rows // 4
    y_true[:half] = np.eye(CLASSES)[random.integers(0, CLASSES, half)]
    y_pred[:quarter] = random.choice([0.0, 1.0, 0.5, 1e-3], (quarter, CLASSES))
    y_pred[-quarter:] = random.choice(special, (quarter, 1))
    if labels:
        return tf.constant(random.integers(0, CLASSES, rows)), tf.cast(tf.constant(y_pred), dtype)
    return tf.cast(tf.constant(y_true), dtype), tf.cast(tf.constant(y_pred), dtype)


def value_and_slopes(loss: Loss, y_true: tf.Tensor, y_pred: tf.Tensor) -> list[tf.Tensor]:
    """Gives the values, and the gradient of their sum by prediction and, if it has one, by target."""
    sources = [y_pred, y_true] if y_true.dtype.is_floating else [y_pred]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        values = loss(y_true, y_pred)
    return [values, *tape.gradient(values, sources)]


def assert_all_finite(results: list[tf.Tensor]) -> None:
    """Asserts that the values and, but in float16, the squares of the slopes are finite."""
    for place, result in enumerate(results):
        numbers = result.numpy().astype(np.float64 if result.dtype == tf.float64 else np.float32)
        if place and result.dtype != tf.float16:  # Its square has no room there: it is kept in float32.
            numbers = np.square(numbers)
        assert np.isfinite(numbers).all(), ("value", "slope by the prediction", "slope by the target")[place]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_finite_in_eager_mode(name: str, dtype: str) -> None:
    """All special numbers give finite values and slopes in each dtype."""
    y_true, y_pred = batch(dtype, name in LABELLED, 400 if name == "circle" else 2000, seed=1)
    assert_all_finite(value_and_slopes(LOSSES[name], y_true, y_pred))


@pytest.mark.parametrize("name", LOSSES)
def test_finite_in_a_graph(name: str) -> None:
    """So they do in a graph, which multiplies in another order, with the batch size unknown."""
    y_true, y_pred = batch("float32", name in LABELLED, 400, seed=2)
    signature = [tf.TensorSpec([None, *each.shape[1:]], each.dtype) for each in (y_true, y_pred)]
    function = tf.function(lambda *inputs: value_and_slopes(LOSSES[name], *inputs), signature)
    assert_all_finite(function(y_true, y_pred))
    empty = function(y_true[:0], y_pred[:0])
    assert all(np.isfinite(each.numpy()).all() for each in empty)


@pytest.mark.parametrize("name", LOSSES)
def test_finite_under_xla(name: str) -> None:
    """So they do when compiled."""
    y_true, y_pred = batch("float32", name in LABELLED, 400, seed=3)
    function = tf.function(lambda *inputs: value_and_slopes(LOSSES[name], *inputs), jit_compile=True)
    assert_all_finite(function(y_true, y_pred))


@given(st.data())
@settings(max_examples=150)
def test_finite_whatever_hypothesis_finds(data: st.DataObject) -> None:
    """Any finite numbers in any of the shapes give finite values and slopes."""
    name = data.draw(st.sampled_from(sorted(PAIRS)))
    width = data.draw(st.sampled_from([16, 32, 64]))
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0])
    rows = data.draw(st.integers(1, 3))
    row = st.lists(numbers, min_size=2, max_size=2)
    y_true, y_pred = (data.draw(st.lists(row, min_size=rows, max_size=rows)) for _ in range(2))
    dtype = f"float{width}"
    results = value_and_slopes(PAIRS[name], tf.constant(y_true, dtype), tf.constant(y_pred, dtype))
    assert_all_finite(results)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("circle", "dice of all")])
def test_nan_stays_in_its_row(name: str) -> None:
    """A NaN in a prediction makes the loss of its row NaN, and of no other."""
    y_true, y_pred = batch("float32", name in LABELLED, 40, seed=4)
    if name in LABELLED:
        y_true = tf.zeros_like(y_true)
    harm = np.zeros(y_pred.shape, "float32")
    harm[::2, 3] = np.nan
    values = LOSSES[name](y_true, y_pred + harm).numpy()
    assert np.isnan(values[::2]).all()
    assert np.isfinite(values[1::2]).all()


@pytest.mark.parametrize("name", PAIRS)
def test_a_nan_target_is_seen(name: str) -> None:
    """A NaN in a target makes the loss of its row NaN."""
    y_true, y_pred = np.full((2, CLASSES), 0.5, "float32"), np.full((2, CLASSES), 0.3, "float32")
    y_true[0, 2] = np.nan
    values = np.atleast_1d(PAIRS[name](y_true, y_pred).numpy())
    assert np.isnan(values[0])
    assert values.size == 1 or np.isfinite(values[1])


@pytest.mark.parametrize("name", LOSSES)
def test_the_slope_has_a_slope(name: str) -> None:
    """The gradient can be differentiated once more, as a gradient penalty does, and the result is finite."""
    random = np.random.default_rng(5)
    y_pred = tf.constant(random.uniform(0, 1, (50, CLASSES)).round(1), tf.float32)
    y_true = (
        random.integers(0, CLASSES, 50)
        if name in LABELLED
        else np.eye(CLASSES, dtype="float32")[y_pred.shape[1] - 1 - random.integers(0, CLASSES, 50)]
    )
    with tf.GradientTape() as outer:
        outer.watch(y_pred)
        with tf.GradientTape() as inner:
            inner.watch(y_pred)
            value = tf.reduce_sum(LOSSES[name](y_true, y_pred))
        slope = tf.reduce_sum(inner.gradient(value, y_pred) ** 2)
    second = outer.gradient(slope, y_pred)
    assert second is None or np.isfinite(second.numpy()).all()


def test_second_slopes_are_right() -> None:
    """What the slope of a slope comes to is what differences of the slope come to."""
    random = np.random.default_rng(6)
    y_pred = tf.constant(random.uniform(0.2, 0.8, (3, CLASSES)))
    y_true = np.eye(CLASSES)[[0, 3, 1]]
    direction = random.normal(size=y_pred.shape)

    def slope(loss: Loss, at: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(at)
            value = tf.reduce_sum(loss(y_true, at))
        return tf.reduce_sum(tape.gradient(value, at) * direction)

    for name in (
        "mean_squared_error",
        "binary_crossentropy",
        "categorical_crossentropy",
        "categorical logits",
        "binary logits",
        "categorical_focal_crossentropy",
        "cosine_similarity",
        "kl_divergence",
        "dice",
    ):
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = slope(PAIRS[name], y_pred)
        second = tf.reduce_sum(tape.gradient(value, y_pred) * direction)
        step = 1e-5 * direction
        expected = (slope(PAIRS[name], y_pred + step) - slope(PAIRS[name], y_pred - step)) / 2e-5
        np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-6, err_msg=name)
