"""Tensors and attributes in a capture file: plain NumPy files, and JSON. Nothing of it can hold code."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend import execution
from nanguard.capture_file._zip import Reader, Writer

_PLAIN = frozenset({
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
    "complex64", "complex128",
})  # fmt: skip
# NumPy's format has no name for these: they go as bytes.
_AS_BYTES = frozenset({"bfloat16", "float8_e5m2", "float8_e4m3fn"})
_MOST_DIMENSIONS = 32
_MOST_VALUES = 1 << 40


class TensorWriter:
    """Writes each tensor once, however many parts of a capture hold it."""

    def __init__(self, archive: Writer) -> None:
        self.entries: list[dict[str, Any]] = []
        self._archive = archive
        self._known: dict[int, tuple[int, Any]] = {}  # the tensor is held so that its id stays its own

    def add(self, value: Any) -> int | None:
        """Writes a tensor; gives its number, or None if it is of a kind that no file can hold."""
        known = self._known.get(id(value))
        if known is not None:
            return known[0]
        tensor = tf.convert_to_tensor(value)
        dtype = tensor.dtype.name
        if dtype not in _PLAIN and dtype not in _AS_BYTES and dtype != "string":
            return None
        number = len(self.entries)
        shape = [int(size) for size in tensor.shape]
        array = tensor.numpy()
        if dtype == "string":
            text = [item.decode("latin-1") for item in np.asarray(array, object).reshape(-1).tolist()]
            self._archive.add(f"tensors/{number}.json", json.dumps(text).encode())
        else:
            stream = io.BytesIO()
            flat = np.asarray(array, order="C")
            kept = np.frombuffer(flat.tobytes(), np.uint8) if dtype in _AS_BYTES else flat
            np.lib.format.write_array(stream, kept, allow_pickle=False)
            self._archive.add(f"tensors/{number}.npy", stream.getvalue(), is_packed=False)
        self.entries.append({"dtype": dtype, "shape": shape})
        self._known[id(value)] = (number, value)
        return number


class TensorReader:
    """Reads tensors by number.

    Args:
        archive: The file.
        entries: What the manifest says of them.
    """

    def __init__(self, archive: Reader, entries: list[dict[str, Any]]) -> None:
        self._archive = archive
        self._entries = entries
        self._known: dict[int, Any] = {}

    def get(self, number: int) -> Any:
        """A tensor by its number."""
        if number not in self._known:
            entry = self._entries[_natural(number)]
            self._known[number] = self._read(number, str(entry["dtype"]), entry["shape"])
        return self._known[number]

    def _read(self, number: int, dtype: str, shape: list[int]) -> Any:
        if len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {number} has {len(shape)} dimensions")
        size = math.prod(_natural(length) for length in shape)
        if math.prod(max(length, 1) for length in shape) > _MOST_VALUES:  # also of a tensor with a length of 0
            raise ValueError(f"tensor {number} is too large")
        if dtype == "string":
            text = json.loads(self._archive.read(f"tensors/{number}.json"))
            if len(text) != size:
                raise ValueError(f"tensor {number} is not of its size")
            return tf.reshape(tf.constant([item.encode("latin-1") for item in text], tf.string), shape)
        if dtype not in _PLAIN and dtype not in _AS_BYTES:
            raise ValueError(f"tensor {number} is of the unknown dtype {dtype}")
        kind = np.dtype(getattr(tf, dtype).as_numpy_dtype)
        stream = io.BytesIO(self._archive.read(f"tensors/{number}.npy"))
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"tensor {number} is of another version of NumPy's format")
        stored_shape, is_fortran, stored = np.lib.format.read_array_header_1_0(stream, max_header_size=2000)
        wanted = (np.dtype(np.uint8), (size * kind.itemsize,)) if dtype in _AS_BYTES else (kind, tuple(shape))
        # Compared before anything is allocated by what the header says.
        if (stored, stored_shape) != wanted or (is_fortran and len(shape) > 1):
            raise ValueError(f"tensor {number} is not of its dtype and shape")
        content = stream.read()
        if len(content) != size * kind.itemsize:
            raise ValueError(f"tensor {number} is not of its size")
        return tf.constant(np.frombuffer(content, kind).reshape(shape), getattr(tf, dtype))


def _natural(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{number!r} is no size or place")
    return number


def attribute(value: Any) -> Any:
    """An attribute of an eager op as JSON.

    Raises:
        TypeError: If it is of a kind that no file can hold.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return {"float": float(value).hex() if math.isfinite(value) else str(float(value))}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tf.DType):
        return int(value.as_datatype_enum)
    if isinstance(value, tf.TensorShape):
        return None if value.rank is None else [attribute(size) for size in value.as_list()]
    if isinstance(value, (list, tuple)):
        return [attribute(item) for item in value]
    name = execution.function_name(value)
    if name is not None:
        return {"function": name}
    raise TypeError(f"an attribute is a {type(value).__name__}")


def value_of(stored: Any) -> Any:
    """The attribute that `attribute` wrote. One that names a function comes as None: no op that takes one is run."""
    if isinstance(stored, list):
        return [value_of(item) for item in stored]
    if isinstance(stored, dict):
        kind, content = next(iter(stored.items()))
        if kind == "float":
            return float.fromhex(content) if content.startswith(("0x", "-0x")) else float(content)
        return base64.b64decode(content, validate=True) if kind == "bytes" else None
    return stored
