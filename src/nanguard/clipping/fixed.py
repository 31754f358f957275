"""Clipping to a limit that is given and stays."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from nanguard.clipping._clip import Clip, positive
from nanguard.clipping._norms import global_norm, shrunk, shrunk_each, variable_norms
from nanguard.clipping._sparse import Gradient, rows_of, values_of, widened
from nanguard.ops._bounds import clipped


class _Fixed(Clip):
    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = positive("limit", limit)

    def get_config(self) -> dict[str, Any]:
        return {"limit": self.limit}


@keras.saving.register_keras_serializable(package="nanguard")
class ClipByValue(_Fixed):
    """Cuts each number of each gradient to `[-limit, limit]`: `max(-limit, min(g, limit))`.

    It changes the direction of the gradient, and bounds nothing but single numbers: prefer `ClipByGlobalNorm`. NaN and
    infinities stay: Keras's `clipvalue` makes a silent 1 of an infinity. Slices of one row of a sparse gradient
    are summed first.

    Args:
        limit: Largest magnitude, positive.

    Example:

    >>> clip = ClipByValue(1.0)
    >>> clip([tf.constant([0.5, -3.0, float("inf"), float("nan")])])[0].numpy()
    array([ 0.5, -1. ,  inf,  nan], dtype=float32)

    References:
        Mikolov, *Statistical Language Models Based on Neural Networks*, PhD thesis, Brno 2012.
    """

    def _clip(
        self, grads: list[Gradient], variables: list[Any], half_squares: list[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        parts = [rows_of(grad) if isinstance(grad, tf.IndexedSlices) else None for grad in grads]
        numbers = [grad if rows is None else rows.values for grad, rows in zip(grads, parts, strict=True)]
        limits = [tf.constant(min(self.limit, x.dtype.max), x.dtype) for x in numbers]
        squares = 2 * tf.add_n(half_squares)
        # No number is larger than the norm, which is known.
        is_small = tf.sqrt(squares) <= self.limit

        def as_they_are() -> tuple[list[tf.Tensor], tf.Tensor]:
            return [tf.identity(x) for x in numbers], tf.constant(1.0)

        def cut() -> tuple[list[tf.Tensor], tf.Tensor]:
            return (
                [_cut(x, limit) for x, limit in zip(numbers, limits, strict=True)],
                tf.reduce_min(tf.stack([_factor(x, self.limit) for x in numbers])),
            )

        values, factor = tf.cond(is_small, as_they_are, cut)
        return [
            value if rows is None else _sparse(grad, rows.indices, value, factor)
            for grad, rows, value in zip(grads, parts, values, strict=True)
        ], factor


def _cut(x: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.math.is_inf(x), x, clipped(x, -limit, limit))


def _factor(x: tf.Tensor, limit: float) -> tf.Tensor:
    x = widened(x)
    largest = tf.reduce_max(tf.where(tf.math.is_finite(x), tf.abs(x), tf.zeros_like(x)))
    return tf.cast(limit / tf.maximum(largest, tf.constant(limit, x.dtype)), tf.float32)


def _sparse(grad: tf.IndexedSlices, indices: tf.Tensor, values: tf.Tensor, factor: tf.Tensor) -> tf.IndexedSlices:
    # The slices as they came, if nothing was cut: a sum would be rounded otherwise.
    is_same = factor == 1
    return tf.IndexedSlices(
        tf.where(is_same, values_of(grad), tf.cast(values, grad.dtype)),
        tf.where(is_same, grad.indices, indices),
        grad.dense_shape,
    )


@keras.saving.register_keras_serializable(package="nanguard")
class ClipByNorm(_Fixed):
    """Multiplies the gradient of each weight by `min(1, limit / |g|)`, with the norm `|g|` of that gradient alone.

    The norm is that of the finite numbers, exact to rounding up to the largest of the dtype. A NaN stays NaN and
    spoils no other number: Keras's `clipnorm` makes its whole gradient NaN. A gradient within the limit keeps its
    bits (but for subnormal numbers, which TensorFlow's kernels read as 0, if another one is clipped).

    Args:
        limit: Largest norm, positive.

    Example:

    >>> clip = ClipByNorm(1.0)
    >>> clip([tf.constant([3e30, float("nan")]), tf.constant([0.5])])[0].numpy()
    array([ 1., nan], dtype=float32)

    References:
        The rule of `ClipByGlobalNorm`, for each weight alone; Keras's `clipnorm`.
    """

    def _clip(
        self, grads: list[Gradient], variables: list[Any], half_squares: list[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        norms = variable_norms(grads, half_squares)
        return shrunk_each(grads, norms, tf.fill([len(grads)], tf.constant(self.limit, norms.value.dtype)))


@keras.saving.register_keras_serializable(package="nanguard")
class ClipByGlobalNorm(_Fixed):
    """Multiplies all gradients by `min(1, limit / |g|)`, with the norm `|g|` of all of them together.

    The direction stays. The norm is that of the finite numbers, exact to rounding up to the largest of the dtype. A NaN
    stays NaN and spoils no other number: with Keras's `global_clipnorm` one NaN, or one finite 1e30, makes
    every weight NaN. Gradients within the limit keep their bits.

    Args:
        limit: Largest norm, positive. 1.0 is the usual one.

    Example:

    >>> clip = ClipByGlobalNorm(1.0)
    >>> clip([tf.constant([3e30]), tf.constant([4e30, float("nan")])])[1].numpy().round(4)
    array([0.8, nan], dtype=float32)

    References:
        Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*, ICML 2013,
        arXiv 1211.5063, §3.2.
    """

    def _clip(
        self, grads: list[Gradient], variables: list[Any], half_squares: list[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        return shrunk(grads, global_norm(grads, half_squares), tf.constant(self.limit))
