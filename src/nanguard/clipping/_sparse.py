"""Gradients of a few rows: what stands for one row twice counts as its sum."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import tensorflow as tf

Gradient: TypeAlias = "tf.Tensor | tf.IndexedSlices"


class Rows(NamedTuple):
    """The rows of a sparse gradient, each once; what is left over at the end is rows of zeros for row 0.

    Attributes:
        values: Sums, shaped as the slices' values; half precision as float32.
        indices: The row that each is for.
        positions: For each slice, its row's place in `values`.
    """

    values: tf.Tensor
    indices: tf.Tensor
    positions: tf.Tensor


def rows_of(slices: tf.IndexedSlices) -> Rows:
    """Sums the slices of each row."""
    # Not tf.unique: XLA has no tensor whose length depends on numbers.
    order = tf.argsort(slices.indices, stable=True)
    indices = tf.gather(slices.indices, order)
    segments = tf.cumsum(tf.cast(indices != tf.concat([indices[:1], indices[:-1]], 0), tf.int32))
    num = tf.shape(indices)[0]
    return Rows(
        values=tf.math.unsorted_segment_sum(tf.gather(widened(slices.values), order), segments, num),
        indices=tf.maximum(tf.math.unsorted_segment_max(indices, segments, num), 0),
        positions=tf.gather(segments, tf.math.invert_permutation(order)),
    )


def widened(x: tf.Tensor) -> tf.Tensor:
    """Gives half precision as float32, other dtypes as they are."""
    return tf.cast(x, tf.float32) if x.dtype.size == 2 else x


def values_of(gradient: Gradient) -> tf.Tensor:
    """Gives the numbers that are stored, which of a sparse gradient are not summed yet."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def summed(gradient: Gradient) -> tf.Tensor:
    """Gives the numbers that count: of a sparse gradient the sum for each row. Half precision as float32."""
    return rows_of(gradient).values if isinstance(gradient, tf.IndexedSlices) else widened(gradient)


def with_values(gradient: Gradient, values: tf.Tensor) -> Gradient:
    """Gives a gradient of the same kind and dtype that holds other numbers."""
    values = tf.cast(values, gradient.dtype)
    if not isinstance(gradient, tf.IndexedSlices):
        return values
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def half_square(gradient: Gradient) -> tf.Tensor:
    """Gives half the sum of squares as a float32 scalar."""
    return tf.cast(tf.nn.l2_loss(summed(gradient)), tf.float32)
