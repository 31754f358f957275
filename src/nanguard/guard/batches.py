"""A batch as plain arrays and a description of its structure in JSON, and back; nothing is pickled either way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend import values

# A structure that is nested deeper was not made by a data pipeline.
_DEPTH = 64


def pack(batch: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Takes a nested structure apart.

    Args:
        batch: Dicts, tuples, lists and named tuples of arrays, eager tensors (ragged and sparse ones too), values of
            several replicas, which are put together, numbers, strings and None.

    Returns:
        The structure, plain values for JSON; and the arrays by the names that the structure calls them. bfloat16 and
        float8 come as unsigned integers of the same bits, text as its bytes in one array and their lengths in another.
        What is none of these, such as an object, is described and not kept.
    """
    arrays: dict[str, np.ndarray] = {}
    return _pack(batch, arrays, 0), arrays


def unpack(structure: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """Puts a batch together again.

    Args:
        structure: What `pack` described.
        arrays: Its arrays.

    Returns:
        The batch: tensors as tensors, arrays as arrays. A named tuple comes as a tuple, and so do values of several
        replicas that make no one tensor; what could not be kept comes as None.

    Raises:
        ValueError, LookupError, TypeError: If structure and arrays do not belong together.
    """
    return _unpack(structure, arrays, 0)


def joined(value: Any) -> Any:
    """The rows of all replicas as one tensor, in order: what the data set held before a strategy dealt it out.

    Args:
        value: A value of several replicas, of dense, ragged or sparse tensors.
    """
    parts = value.values
    if isinstance(parts[0], tf.SparseTensor):
        return tf.sparse.concat(0, list(parts))
    return tf.concat(parts, 0)


def bad_rows(batch: Any) -> tuple[int, ...] | None:
    """Rows of a batch that hold a NaN or an infinity; None if there are none.

    Args:
        batch: As for `pack`. The rows of several replicas are counted through.
    """
    found: set[int] = set()
    for leaf in tf.nest.flatten(batch):
        first = 0
        for part in leaf.values if isinstance(leaf, tf.distribute.DistributedValues) else (leaf,):
            if part is None or isinstance(part, (tf.RaggedTensor, tf.SparseTensor)):
                break
            numbers = values.array(part)
            if numbers.ndim and numbers.size:
                is_bad = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
                found.update((first + np.flatnonzero(is_bad)).tolist())
                first += len(numbers)
    return tuple(sorted(found)) or None


def _pack(node: Any, arrays: dict[str, np.ndarray], depth: int) -> dict[str, Any]:
    def inner(value: Any) -> dict[str, Any]:
        return _pack(value, arrays, depth + 1)

    if depth > _DEPTH:
        return {"kind": "lost", "type": "nested too deep"}
    if node is None:
        return {"kind": "none"}
    if isinstance(node, Mapping):
        return {
            "kind": "dict",
            "keys": [inner(key) for key in node],
            "items": [inner(value) for value in node.values()],
        }
    if isinstance(node, tuple):
        names = {"names": list(node._fields)} if hasattr(node, "_fields") else {}
        return {"kind": "tuple", "items": [inner(value) for value in node], **names}
    if isinstance(node, list):
        return {"kind": "list", "items": [inner(value) for value in node]}
    if isinstance(node, tf.RaggedTensor):
        splits = [inner(part) for part in node.nested_row_splits]
        return {"kind": "ragged", "values": inner(node.flat_values), "splits": splits}
    if isinstance(node, tf.SparseTensor):
        parts = {name: inner(getattr(node, name)) for name in ("indices", "values", "dense_shape")}
        return {"kind": "sparse", **parts}
    if isinstance(node, tf.distribute.DistributedValues):
        try:
            return inner(joined(node))
        except (TypeError, ValueError, tf.errors.OpError):  # parts that are no rows, or of different widths
            return {"kind": "replicas", "items": [inner(value) for value in node.values]}
    return _pack_leaf(node, arrays)


def _pack_leaf(node: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if type(node) in (bool, int, str):
        return {"kind": "value", "value": node}
    was = "array"
    if type(node) in (float, complex, bytes):
        was = "number"
    elif isinstance(node, np.generic):
        was = "scalar"
    elif isinstance(node, (tf.Tensor, tf.Variable)):
        was = "tensor"
    try:
        array = np.asarray(node.numpy() if was == "tensor" else node)
    except Exception:
        return _lost(node)
    name = f"array{len(arrays)}"
    found = {"kind": "leaf", "was": was, "array": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    if array.dtype.kind in "OSU":
        texts = array.ravel().tolist()
        if not all(isinstance(text, (str, bytes)) for text in texts):
            return _lost(node)
        # Lone surrogates stand for file names in bytes that are not UTF-8.
        parts = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
        arrays[name] = np.frombuffer(b"".join(parts), np.uint8)
        arrays[f"{name}.lengths"] = np.array([len(part) for part in parts], np.int64)
        is_str = bool(texts) and all(isinstance(text, str) for text in texts)
        return {**found, "dtype": "str" if is_str else "bytes", "numpy": array.dtype.str}
    if array.dtype.kind == "V":
        if array.dtype.names is not None:
            return _lost(node)
        array = array.view(f"u{array.dtype.itemsize}")
    arrays[name] = array
    return found


def _lost(node: Any) -> dict[str, Any]:
    kind = type(node)
    return {"kind": "lost", "type": f"{kind.__module__}.{kind.__qualname__}"}


def _unpack(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], depth: int) -> Any:
    def inner(value: Mapping[str, Any]) -> Any:
        return _unpack(value, arrays, depth + 1)

    kind = node["kind"]
    if depth > _DEPTH:
        raise ValueError("the structure is nested too deep")
    if kind in ("none", "lost"):
        return None
    if kind == "value":
        return node["value"]
    if kind == "dict":
        return {inner(key): inner(item) for key, item in zip(node["keys"], node["items"], strict=True)}
    if kind in ("tuple", "replicas"):
        return tuple(inner(item) for item in node["items"])
    if kind == "list":
        return [inner(item) for item in node["items"]]
    if kind == "ragged":
        return tf.RaggedTensor.from_nested_row_splits(inner(node["values"]), [inner(part) for part in node["splits"]])
    if kind == "sparse":
        return tf.SparseTensor(inner(node["indices"]), inner(node["values"]), inner(node["dense_shape"]))
    if kind == "leaf":
        return _unpack_leaf(node, arrays)
    raise ValueError(f"the structure holds a {kind!r}, which is not known")


def _unpack_leaf(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    array = arrays[node["array"]]
    was, dtype, shape = node["was"], node["dtype"], tuple(node["shape"])
    if dtype in ("str", "bytes"):
        array = _texts(array, arrays[node["array"] + ".lengths"], is_str=dtype == "str")
        # As a string of a fixed width or as objects, whichever it was.
        array = array.reshape(shape).astype(node["numpy"] if node["numpy"][1] in "SU" else object)
    elif array.dtype.name != dtype:
        array = array.view(tf.as_dtype(dtype).as_numpy_dtype)
    array = array.reshape(shape)
    if was == "tensor":
        return tf.constant(array, dtype=tf.string if dtype in ("str", "bytes") else None)
    if was == "scalar":
        return array[()]
    return array.item() if was == "number" else array


def _texts(content: np.ndarray, lengths: np.ndarray, *, is_str: bool) -> np.ndarray:
    whole, place = content.tobytes(), 0
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != len(whole):
        raise ValueError("the lengths of its strings do not add up")
    found = np.empty(len(lengths), object)
    for index, length in enumerate(lengths.tolist()):
        part = whole[place : place + length]
        found[index] = part.decode("utf-8", "surrogatepass") if is_str else part
        place += length
    return found
