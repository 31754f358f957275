"""What Keras hangs on a prediction: the logits that it was made of, and its mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_LOGITS = "_keras_logits"
_MASK = "_keras_mask"


def logits_behind(prediction: Any, activation: str | None = None) -> tf.Tensor | None:
    """Gives the logits that a sigmoid or softmax made a prediction of, or None.

    Args:
        prediction: What a model gave.
        activation: Type of the op, "Sigmoid" or "Softmax", to look for in a graph where Keras left no mark, such as
            behind `tf.nn.softmax`. A cast in between, as under mixed precision, hides nothing.
    """
    logits = getattr(prediction, _LOGITS, None)
    if logits is not None or activation is None or isinstance(prediction, tf.Variable):
        return logits
    op = getattr(prediction, "op", None)  # An eager tensor has none.
    while op is not None and op.type == "Cast" and op.inputs[0].dtype.is_floating:
        op = op.inputs[0].op
    return tf.cast(op.inputs[0], prediction.dtype) if op is not None and op.type == activation else None


def mask_of(prediction: Any) -> tf.Tensor | None:
    """Gives the mask that Keras's layers left on a prediction, or None."""
    return getattr(prediction, _MASK, None)


def set_mask(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Gives values with a mask hung on them, as Keras hangs it on what a layer or a loss gives."""
    setattr(values, _MASK, mask)
    return values


def set_logits(prediction: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Gives a prediction with logits hung on it, which losses then use in its place."""
    setattr(prediction, _LOGITS, logits)
    return prediction


def map_prediction(function: Callable[[tf.Tensor], tf.Tensor], prediction: Any) -> tf.Tensor:
    """Gives what a function makes of a prediction, with its mask, and with its logits put through the same function.

    Any op drops both. A loss under mixed precision then sees a probability that is exactly 0 or 1 and has no gradient.
    """
    logits, mask = logits_behind(prediction), mask_of(prediction)
    mapped = function(tf.convert_to_tensor(prediction))
    if mapped is prediction:
        return mapped
    if logits is not None:
        setattr(mapped, _LOGITS, function(logits))
    if mask is not None:
        setattr(mapped, _MASK, mask)
    return mapped


def cast_prediction(prediction: Any, dtype: str) -> tf.Tensor:
    """Gives a prediction in another dtype, still with its logits and its mask."""
    return map_prediction(lambda x: tf.cast(x, dtype), prediction)
