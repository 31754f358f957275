"""Norms that neither overflow nor are spoilt by a NaN, and gradients brought down to a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from nanguard.clipping._sparse import Gradient, summed, values_of, widened, with_values
from nanguard.ops._scaling import inverse_power_of_two

ONE = 1.0


class Norm(NamedTuple):
    """A norm as two numbers, since that of finite numbers can be beyond the dtype; or one such pair per variable.

    Attributes:
        value: The norm times `scale`, of the finite entries.
        scale: A power of two; 1 but for a gradient whose plain sum of squares is not finite.
        is_whole: Whether all entries are finite.
    """

    value: tf.Tensor
    scale: tf.Tensor
    is_whole: tf.Tensor

    def plain(self) -> tf.Tensor:
        """Gives the norm itself, as the largest number of the dtype where it is beyond that."""
        return tf.minimum(self.value / self.scale, self.value.dtype.max)


def dtype_of(grads: Sequence[Gradient]) -> tf.DType:
    """Gives the dtype for norms: float32, but float64 if a gradient is that."""
    return tf.float64 if any(grad.dtype == tf.float64 for grad in grads) else tf.float32


def global_norm(grads: Sequence[Gradient], half_squares: Sequence[tf.Tensor]) -> Norm:
    """Gives the norm of all gradients together, from their half squares wherever these are finite."""
    dtype = dtype_of(grads)
    squares = 2 * tf.cast(tf.add_n(half_squares), dtype)

    def from_squares() -> Norm:
        return Norm(tf.sqrt(squares), tf.constant(ONE, dtype), tf.constant(True))

    def from_entries() -> Norm:
        return _norm_of_finite([tf.cast(summed(grad), dtype) for grad in grads])

    return Norm(*tf.cond(tf.math.is_finite(squares), from_squares, from_entries))


def variable_norms(grads: Sequence[Gradient], half_squares: Sequence[tf.Tensor]) -> Norm:
    """Gives the norm of each gradient, as vectors."""
    dtype = dtype_of(grads)
    squares = 2 * tf.cast(tf.stack(half_squares), dtype)

    def from_squares() -> Norm:
        return Norm(tf.sqrt(squares), tf.ones_like(squares), tf.ones_like(squares, tf.bool))

    def from_entries() -> Norm:
        norms = [_norm_of_finite([tf.cast(summed(grad), dtype)]) for grad in grads]
        return Norm(*(tf.stack(part) for part in zip(*norms, strict=True)))

    return Norm(*tf.cond(tf.reduce_all(tf.math.is_finite(squares)), from_squares, from_entries))


def _norm_of_finite(tensors: list[tf.Tensor]) -> Norm:
    finite = [finite_entries(x) for x in tensors]
    # An empty tensor's largest number is -inf.
    largest = tf.reduce_max(tf.stack([tf.maximum(tf.reduce_max(tf.abs(x)), 0) for x in finite]))
    scale = inverse_power_of_two(largest)
    squares = tf.add_n([tf.reduce_sum(tf.square(x * scale)) for x in finite])
    is_whole = tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(x)) for x in tensors]))
    return Norm(tf.sqrt(squares), scale, is_whole)


def finite_entries(x: tf.Tensor) -> tf.Tensor:
    """Gives `x` with 0 in the place of what is not finite."""
    return tf.where(tf.math.is_finite(x), x, tf.zeros_like(x))


def shrunk(grads: Sequence[Gradient], norm: Norm, limit: tf.Tensor) -> tuple[list[Gradient], tf.Tensor]:
    """Gives gradients whose norm together is at most `limit`, and the factor; as they are if it is no larger."""
    return _shrunk(grads, norm, tf.cast(limit, norm.value.dtype), lambda factor: [factor] * len(grads))


def shrunk_each(grads: Sequence[Gradient], norms: Norm, limits: tf.Tensor) -> tuple[list[Gradient], tf.Tensor]:
    """Gives gradients whose norms are at most their limits, and the smallest factor.

    Args:
        grads: Gradients.
        norms: Of each.
        limits: Of each, in the dtype of the norms.
    """
    return _shrunk(grads, norms, limits, tf.unstack)


def _shrunk(
    grads: Sequence[Gradient], norm: Norm, limit: tf.Tensor, for_each: Callable[[tf.Tensor], list[tf.Tensor]]
) -> tuple[list[Gradient], tf.Tensor]:
    is_small = norm.value <= limit * norm.scale
    stored = [values_of(grad) for grad in grads]

    def as_they_are() -> tuple[list[tf.Tensor], tf.Tensor]:
        return [tf.identity(x) for x in stored], tf.constant(ONE)

    def smaller() -> tuple[list[tf.Tensor], tf.Tensor]:
        one = tf.ones_like(norm.value)
        factors = tf.where(is_small, one, limit / tf.where(is_small, one, norm.value))
        scales = tf.where(is_small, one, norm.scale)

        def at_once() -> list[tf.Tensor]:
            return [_times(x, factor) for x, factor in zip(stored, for_each(factors), strict=True)]

        def in_two_steps() -> list[tf.Tensor]:
            divisors = for_each(1 / factors)
            return [_times(x, *pair) for x, *pair in zip(stored, for_each(scales), divisors, strict=True)]

        values = tf.cond(tf.reduce_all(scales == 1), at_once, in_two_steps)
        return values, tf.cast(tf.reduce_min(factors * scales), tf.float32)

    values, factor = tf.cond(tf.reduce_all(is_small), as_they_are, smaller)
    return [with_values(grad, value) for grad, value in zip(grads, values, strict=True)], factor


def _times(x: tf.Tensor, factor: tf.Tensor, divisor: tf.Tensor | None = None) -> tf.Tensor:
    """Gives `x * factor / divisor`, with room for factors that half precision has not."""
    y = widened(x) * tf.cast(factor, widened(x).dtype)
    if divisor is not None:
        # Of two products graphs multiply the factors first. That is a subnormal number for an `x` near the largest, and
        # kernels read it as 0.
        y /= tf.cast(divisor, y.dtype)
    return tf.cast(y, x.dtype)
