"""Losses in which the samples of a batch meet one another."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

from nanguard.losses._base import Loss, Nested
from nanguard.ops._bounds import format_of
from nanguard.ops._operation import TensorLike


class Coupled(Loss):
    """Beside `FunctionLoss`: makes a class of a function that compares samples, told by `present` which take part.

    A sample of weight 0, or a masked one, is compared with none.
    """

    def __init_subclass__(cls, *, function: Callable[..., tf.Tensor], **kwargs: Any) -> None:
        own = [name for name in list(inspect.signature(function).parameters)[2:] if name != "present"]
        order = (*own, "reduction", "name", "dtype")
        super().__init_subclass__(function=function, order=order, **kwargs)

    function: ClassVar[Callable[..., tf.Tensor]]
    arguments: dict[str, Any]

    def __call__(self, y_true: Nested, y_pred: Nested, sample_weight: Any = None) -> tf.Tensor:
        # Ones that travel with the targets: the base class makes them 0 where it makes the targets 0.
        present = tf.ones(tf.shape(y_pred)[:1], self.dtype)
        return super().__call__((y_true, present), y_pred, sample_weight)

    def call(self, y_true: Nested, y_pred: Nested) -> tf.Tensor:
        y_true, present = y_true
        return type(self).function(y_true, y_pred, present=present, **self.arguments)


def column(values: TensorLike) -> tf.Tensor:
    """Gives one number for each sample as a tensor of rank 1."""
    return tf.reshape(tf.convert_to_tensor(values), [-1])


def presence(present: TensorLike | None, y_pred: tf.Tensor) -> tf.Tensor:
    """Gives for each sample whether it takes part."""
    if present is None:
        return tf.ones(tf.shape(y_pred)[:1], tf.bool)
    return column(present) if tf.as_dtype(present.dtype).is_bool else tf.not_equal(column(present), 0)


def pairs(labels: TensorLike, present: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives for each two samples whether they are different ones of one label, and whether they differ in label."""
    labels = column(labels)
    same = tf.equal(labels[:, None], labels[None, :])
    both = present[:, None] & present[None, :]
    # A NaN label equals none, so it would make a pair of strangers with each; it knows nobody.
    known = tf.equal(labels, labels)
    both &= known[:, None] & known[None, :]
    itself = tf.cast(tf.eye(tf.size(labels)), tf.bool)
    return same & both & ~itself, ~same & both


def with_nan_of(values: tf.Tensor, labels: TensorLike) -> tf.Tensor:
    """Gives values that are NaN where a label is."""
    labels = column(labels)
    if not labels.dtype.is_floating:
        return values
    return tf.where(tf.math.is_nan(labels), tf.constant(float("nan"), values.dtype), values)


def lowest_of(x: tf.Tensor) -> tf.Tensor:
    """Gives a number whose exponential is 0 beside any other of `x`, and which can be subtracted from one."""
    return tf.constant(-format_of(x).max / 4, x.dtype)
