"""Which samples a loss, or its gradient, is not finite for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nanguard.losses._samples import Rows, Samples, all_finite, at_least_one, finite_rows, floats_of, surely_finite


@dataclass(frozen=True)
class Search:
    """Looks for samples that a loss is not finite for.

    Args:
        loss: The loss, reduced as in training: `loss(y_true, y_pred, sample_weight)`.
        unreduced: The same loss without a reduction.
        samples: The batch.
        may_miss_labels: Whether the loss knows what to do with labels that are not finite.
    """

    loss: Callable[..., Any]
    unreduced: Callable[..., Any]
    samples: Samples
    may_miss_labels: bool = False

    @property
    def _must_be_finite(self) -> list[Any]:
        # Before the loss sees them: a NaN that a loss takes for a class id is an error on the CPU.
        samples = self.samples
        return [samples.sample_weight] if self.may_miss_labels else [samples.y_true, samples.sample_weight]

    def is_over(self) -> tf.Tensor:
        """Gives whether no sample is affected, at the cost of the loss, its gradient and a look at each number.

        It may be false for no reason where numbers are so large that their squares are not finite.
        """
        inputs = floats_of(self._must_be_finite)

        def probe() -> tf.Tensor:
            results = _value_and_gradients(self.loss, self.samples)
            return surely_finite([*results, *floats_of(self.samples.y_pred)])

        return tf.cond(surely_finite(inputs), probe, lambda: tf.constant(False)) if inputs else probe()

    def unaffected_rows(self) -> Rows:
        """Gives for each sample whether it may stay.

        Samples whose inputs, value or gradient are not finite go first. If the loss of the others is not finite
        still, it is one that mixes the samples, and those that have to go are looked for by halves.
        """
        samples = self.samples
        good = finite_rows(self._must_be_finite, samples.num) & _rows_without_nan(samples.y_pred, samples.num)
        own = good & _finite_by_row(self.unreduced, samples.only(good), good)
        return tf.cond(_is_finite(self.loss, samples, own), lambda: own, lambda: _by_halves(self.loss, samples, good))


def _value_and_gradients(loss: Callable[..., Any], samples: Samples) -> list[tf.Tensor]:
    value, gradients = samples.value_and_gradients(loss)
    return [value, *gradients]


def _is_finite(loss: Callable[..., Any], samples: Samples, keep: Rows) -> tf.Tensor:
    """Whether the loss of some of the samples, of which there must be one at least, is finite with its gradient."""
    return tf.cond(
        tf.reduce_any(keep),
        lambda: all_finite(_value_and_gradients(loss, samples.only(keep))),
        lambda: tf.constant(False),
    )


def _finite_by_row(unreduced: Callable[..., Any], kept: Samples, keep: Rows) -> Rows:
    """Whether the own value and gradient of each sample that is kept are finite; says nothing of the others."""
    value, gradients = kept.value_and_gradients(unreduced)
    good = finite_rows(gradients, kept.num)
    if value.shape.rank != 0:
        # A loss that gives one number for each pair of samples has no value of their own.
        good &= tf.cond(
            tf.equal(tf.shape(value)[0], kept.num), lambda: finite_rows(value, kept.num), lambda: tf.ones_like(good)
        )
    places = tf.where(at_least_one(keep))
    return tf.cond(
        tf.equal(kept.num, tf.shape(keep)[0]),
        lambda: good,
        lambda: tf.cast(tf.scatter_nd(places, tf.cast(good, tf.int32), tf.shape(keep, tf.int64)), tf.bool),
    )


def _rows_without_nan(y_pred: Any, num: tf.Tensor) -> Rows:
    # A logit of -inf says that a class is impossible, and most losses make a finite number of it.
    return finite_rows([tf.where(tf.math.is_inf(x), tf.zeros_like(x), x) for x in floats_of(y_pred)], num)


def _by_halves(loss: Callable[..., Any], samples: Samples, among: Rows) -> Rows:
    """Gives samples whose loss is finite together, so many that no other of them could be added.

    Starts with none and adds blocks, of half the batch at first and of one sample at last, while the loss stays
    finite: one bad sample of n costs about 2 log2(n) losses.
    """
    num = samples.num
    places = tf.range(num)

    def add(keep: Rows, size: tf.Tensor, start: tf.Tensor) -> tuple[Rows, tf.Tensor, tf.Tensor]:
        block = among & ~keep & (places >= start) & (places < start + size)
        more = tf.cond(
            tf.reduce_any(block), lambda: _is_finite(loss, samples, keep | block), lambda: tf.constant(False)
        )
        keep |= block & more
        start += size
        is_over = start >= num
        # Rounded up: one bad sample may be finite alone, and keep out all others if it is the first to get in.
        smaller = tf.where(size > 1, (size + 1) // 2, 0)
        return keep, tf.where(is_over, smaller, size), tf.where(is_over, 0, start)

    first = tf.maximum((num + 1) // 2, 1)
    keep, _, _ = tf.while_loop(
        lambda keep, size, start: size > 0, add, (tf.zeros([num], tf.bool), first, tf.constant(0))
    )
    return keep
