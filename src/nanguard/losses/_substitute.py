"""A loss with a constant in the place of some samples' values, for where they cannot be taken out."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from nanguard.backend.predictions import mask_of, set_mask
from nanguard.losses._base import Loss
from nanguard.losses._samples import Rows, Samples, along_rows

_KNOWN_CALLS = (keras.losses.Loss.__call__, Loss.__call__)


def twin(loss: keras.losses.Loss) -> keras.losses.Loss:
    """Gives another object with all that a loss has: what is set on it leaves the loss as it is."""
    # copy.copy would save the loss to a file and load it, which fails for a function that is not registered.
    other = object.__new__(type(loss))
    other.__dict__.update(loss.__dict__)
    return other


def gives_values_by_row(loss: keras.losses.Loss, samples: Samples) -> bool:
    """Whether the loss first makes values for each sample and then reduces them, as Keras's base class does it.

    Args:
        loss: Any loss of Keras.
        samples: A batch that is safe to call it with.
    """
    kind = type(loss)
    if kind.__call__ not in _KNOWN_CALLS or kind.call is keras.losses.Loss.call:
        return False
    if isinstance(loss, Loss) and keras.tree.is_nested(samples.y_pred):
        return False  # It takes no mask from these.
    shape = tf.convert_to_tensor(loss.call(samples.y_true, samples.y_pred)).shape
    return shape.rank != 0 and bool(shape[:1].is_compatible_with(samples.rows_shape))


def substitute(loss: keras.losses.Loss, samples: Samples, good: Rows, value: float, *, is_counted: bool) -> tf.Tensor:
    """Gives the loss with one value, whose gradient is 0, for all samples that are not good.

    Args:
        loss: A loss that gives values by row.
        samples: The batch.
        good: The samples that keep their own values.
        value: The value of the others.
        is_counted: Whether the others count in the denominator; else they are masked.
    """
    safe = samples.with_stand_ins(good)
    weight = samples.sample_weight
    if weight is not None and weight.dtype.is_floating:
        weight = tf.where(tf.math.is_finite(weight), weight, tf.zeros_like(weight))
    y_pred = safe.y_pred
    if not is_counted and isinstance(loss, Loss):
        mask = mask_of(y_pred)
        y_pred = set_mask(y_pred, good if mask is None else tf.cast(mask, tf.bool) & along_rows(good, mask))

    def call(y_true: Any, y_pred: Any) -> tf.Tensor:
        values = tf.convert_to_tensor(loss.call(y_true, y_pred))
        rows = along_rows(good, values)
        mask = mask_of(values)
        values = tf.where(rows, values, tf.cast(value, values.dtype))
        if not is_counted:
            counted = tf.broadcast_to(rows, tf.shape(values))
            mask = counted if mask is None else tf.cast(mask, tf.bool) & counted
        return values if mask is None else set_mask(values, mask)

    substituted = twin(loss)
    substituted.call = call
    return tf.convert_to_tensor(substituted(safe.y_true, y_pred, weight))
