"""Plain Python values as JSON and back, to the bit and with their types."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

# What Keras's callbacks compare with: set at the end of the first epoch, together with a sign that must fit it.
_COMPARISONS = {
    "keras.ops.less": keras.ops.less,
    "keras.ops.greater": keras.ops.greater,
    "numpy.less": np.less,
    "numpy.greater": np.greater,
}


class NotPlainError(TypeError):
    """The value is no plain one."""


def encode(value: Any, arrays: dict[str, Any] | None = None, name: str = "") -> Any:
    """Gives what JSON can hold of a plain value.

    Plain are None, booleans, numbers, strings, NumPy scalars, `less` and `greater`, and lists, tuples and dicts of
    these; where `arrays` is given, also NumPy arrays, which are put there under names that start with `name`.

    Raises:
        NotPlainError: If the value is anything else.
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        # Through float: exact for every NumPy float of up to 64 bits.
        number = value.item()
        return {"numpy": value.dtype.name, "value": encode(number if isinstance(number, int) else float(number))}
    if isinstance(value, np.ndarray) and arrays is not None and value.dtype.kind in "biuf":
        arrays[name] = value
        return {"array": name}
    for known, comparison in _COMPARISONS.items():
        if value is comparison:
            return {"comparison": known}
    if isinstance(value, tuple):
        return {"tuple": [encode(item, arrays, f"{name}/{index}") for index, item in enumerate(value)]}
    if isinstance(value, list):
        return [encode(item, arrays, f"{name}/{index}") for index, item in enumerate(value)]
    if isinstance(value, dict):
        pairs = enumerate(value.items())
        return {"dict": [[encode(key), encode(item, arrays, f"{name}/{index}")] for index, (key, item) in pairs]}
    raise NotPlainError(f"a {type(value).__name__}")


def decode(value: Any, arrays: dict[str, Any] | None = None) -> Any:
    """Gives the value that `encode` was given."""
    if isinstance(value, list):
        return [decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "numpy" in value:
        return np.dtype(value["numpy"]).type(decode(value["value"]))
    if "comparison" in value:
        return _COMPARISONS[value["comparison"]]
    if "array" in value:
        return (arrays or {})[value["array"]]
    if "tuple" in value:
        return tuple(decode(item, arrays) for item in value["tuple"])
    return {decode(key): decode(item, arrays) for key, item in value["dict"]}
