"""Tensors as numbers that NumPy can compute with, whatever their dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

_OPAQUE = (tf.resource, tf.variant, tf.string)


def holds_floats(value: Any) -> bool:
    """Whether a tensor's numbers can be non-finite at all."""
    return bool(value.dtype.is_floating or value.dtype.is_complex)


def array(value: Any) -> np.ndarray:
    """The numbers of a tensor or array; half precision comes as float32, what is no number as an empty array."""
    if isinstance(value, tf.Tensor):
        if value.dtype in _OPAQUE:
            return np.zeros(0, np.float32)
        value = value.numpy()
    result = np.asarray(value)
    if result.dtype.kind in "OSU":
        return np.zeros(0, np.float32)
    if result.dtype.kind == "V" or result.dtype == np.float16 or result.dtype.name in ("bfloat16", "float8_e4m3fn"):
        return result.astype(np.float32)
    return result


def is_finite(value: Any) -> bool:
    """Whether all numbers of a tensor or array are finite."""
    numbers = array(value)
    return numbers.dtype.kind not in "fc" or bool(np.isfinite(numbers).all())
