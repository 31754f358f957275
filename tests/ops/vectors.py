"""Vectors of all kinds of numbers, and what every op on them promises."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numbers_of import as_numpy, in_mode, largest_slope, sample, widened

from nanguard.intervals import float_format


@functools.cache
def vectors(dtype: str, length: int = 4) -> np.ndarray:
    """Gives rows of `length` numbers: all that can be made of a few special ones, and random bit patterns."""
    limits = float_format(dtype)
    few = [0.0, 1.0, -1.5, limits.max, -limits.max, limits.smallest_normal, limits.floor, limits.square_limit * 2]
    rows = np.array(list(itertools.product(few, repeat=length)))
    rows = np.concatenate([rows, [[0.1] * length, [limits.max / 3] * length, [-limits.smallest_normal / 2] * length]])
    random = np.random.default_rng(3)
    bits = random.permutation(sample(dtype))[: 1000 * length].reshape(-1, length)
    ordinary = random.standard_normal((1000, length)) * 2.0 ** random.integers(-6, 7, (1000, 1))
    return np.concatenate([rows.astype(as_numpy(dtype)), bits, ordinary.astype(as_numpy(dtype))])


def with_mean_gradients(function: Callable[..., Any], share: int) -> Callable[..., Any]:
    """Gives a function that gives values of any structure, and the gradients of their sum divided by `share`."""

    def run(*tensors: tf.Tensor) -> tuple[Any, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = function(*tensors)
        upstream = tf.nest.map_structure(lambda value: tf.ones_like(value) / share, y)
        return y, tape.gradient(y, list(tensors), upstream, unconnected_gradients="zero")

    return run


def assert_finite(function: Callable[..., Any], dtype: str, mode: str, *operands: np.ndarray, share: int = 1) -> Any:
    """Holds values finite and slopes below the largest that Adam can bear, and an Adam step too; gives both.

    Args:
        share: How many values each element may be part of: its gradient is the mean of as many slopes, and in
            float16 their sum would overflow.
    """
    tensors = [tf.constant(operand, dtype) for operand in operands]
    y, gradients = in_mode(with_mean_gradients(function, share), mode)(*tensors)
    for value in tf.nest.flatten(y):
        assert value.dtype == dtype
        is_finite = np.isfinite(widened(value.numpy()))
        assert is_finite.all(), _first(~is_finite, operands)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        assert gradient.dtype == dtype
        assert gradient.shape == tensor.shape
        is_bounded = np.abs(widened(gradient.numpy())) <= 1.01 * largest_slope(dtype)
        assert is_bounded.all(), _first(~is_bounded, operands)
    return y, gradients


def assert_adam_survives(function: Callable[[tf.Tensor], tf.Tensor], operand: np.ndarray) -> None:
    """Takes one step with the gradient of a function, and one with a clean gradient; the weights stay finite."""
    weights = tf.Variable(operand)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build([weights])
    with tf.GradientTape() as tape:
        y = function(weights)
    gradient = tape.gradient(y, weights)
    for step in (gradient, tf.ones_like(weights)):
        optimizer.apply_gradients([(step, weights)])
        is_finite = np.isfinite(weights.numpy())
        assert is_finite.all(), _first(~is_finite, (operand,))


def _first(is_wrong: np.ndarray, operands: tuple[np.ndarray, ...]) -> list[Any]:
    """Gives the rows of the first few wrong entries."""
    rows = sorted({int(row) for row in np.argwhere(is_wrong.reshape(len(is_wrong), -1))[:, 0]})[:5]
    return [[widened(operand)[row].tolist() for operand in operands if len(operand) > row] for row in rows]
