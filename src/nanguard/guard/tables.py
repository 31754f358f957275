"""A batch that is one flat table, as a Parquet file; needs pyarrow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_KEY = b"nanguard"
_DTYPES = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {"float32", "float64", "bool"}


def columns(structure: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Gives the columns of a batch, or None if it is no flat table or pyarrow is not there.

    Flat is what has leaves of one or two axes with as many rows each, of numbers that Parquet has. A leaf of two axes
    becomes a column for each of its own.

    Args:
        structure: As `batches.pack` describes it.
        arrays: As `batches.pack` gives them.
    """
    flat = {leaf["array"]: name for name, leaf in _leaves(structure, "")}
    if not flat or set(flat) != set(arrays) or any("." in array for array in arrays):
        return None
    found: dict[str, np.ndarray] = {}
    for array_name, name in flat.items():
        array = arrays[array_name]
        if array.ndim not in (1, 2) or array.dtype.name not in _DTYPES or not array.dtype.isnative:
            return None
        parts = {name: array} if array.ndim == 1 else {f"{name}[{i}]": array[:, i] for i in range(array.shape[1])}
        if found.keys() & parts.keys():
            return None
        found.update(parts)
    if len({len(column) for column in found.values()}) != 1:
        return None
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        return None
    return found


def write(stream: Any, found: Mapping[str, np.ndarray], document: str) -> None:
    """Writes columns and the manifest beside them."""
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    # By default NaN stays NaN and does not become a missing value.
    table = pyarrow.table({name: pyarrow.array(np.ascontiguousarray(column)) for name, column in found.items()})
    parquet.write_table(table.replace_schema_metadata({_KEY: document.encode()}), stream)


def document(path: Path) -> bytes:
    """Gives the manifest of a file."""
    metadata = importlib.import_module("pyarrow.parquet").read_schema(path).metadata or {}
    return bytes(metadata[_KEY])


def arrays(path: Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Gives the arrays of a file, as `batches.unpack` takes them."""
    table = importlib.import_module("pyarrow.parquet").read_table(path)
    found = {}
    for name, leaf in _leaves(manifest["structure"], ""):
        shape = leaf["shape"]
        names = [name] if len(shape) == 1 else [f"{name}[{i}]" for i in range(shape[1])]
        parts = [table.column(part).to_numpy() for part in names]
        found[leaf["array"]] = parts[0] if len(shape) == 1 else np.stack(parts, 1).astype(leaf["dtype"])
    return found


def _leaves(node: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The leaves with a name for each, such as `0.age`; what is no plain leaf makes the batch no table."""
    if node["kind"] == "leaf":
        return [(name or "value", node)]
    found: list[tuple[str, Mapping[str, Any]]] = []
    for place, item in enumerate(node.get("items", ())):
        part = str(node["keys"][place].get("value", place) if node["kind"] == "dict" else place)
        found += _leaves(item, f"{name}.{part}" if name else part)
    return found
