"""One way in for every kind of table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nanguard.clean.sources import _chunks, _datasets, _files, _frames
from nanguard.clean.sources._arrow import chosen_names
from nanguard.clean.sources._csv import CsvOptions
from nanguard.clean.sources._source import BATCH_ROWS, Source
from nanguard.errors import UsageError


def open(
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    batch_rows: int = BATCH_ROWS,
    dtypes: Mapping[str, Any] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    may_be_empty: bool = False,
) -> Source:
    """Opens a table for reading block by block, in bounded memory.

    Rows are numbered from 0, over all files. A matrix has its columns called "0", "1" and so on, an array `x` of an
    archive, a dict or an example "x_0", "x_1" if it has several. A null, a NaN and an empty cell of a CSV file are
    missing cells, as are `NA`, `N/A`, `null` and `nan` there unless they are quoted. The index of a frame is no column.

    Args:
        data: The path of a CSV, Parquet, TFRecord, NPZ or NPY file, of a folder of such files, or a pattern such as
            `logs/*.csv`: several files are read in sorted order, and must have the same columns. An array, structured
            or not; a dict of arrays; a frame of any library that narwhals knows, lazy ones too; a `tf.data.Dataset` or
            `keras.utils.PyDataset`; a tuple of features, labels and sample weights; batches of any of these in a list,
            an iterator, or a function that gives an iterator.
        columns: Which columns to read, in this order; the others are left out of the table. Defaults to all.
        label: The column that is the label; what a label without a name of its own is to be called, by default "label".
        batch_rows: How many rows a block has at most. 65,536 by default: some 10 MB for 20 columns. Blocks of wide
            tables have fewer.
        dtypes: Of a CSV file: the types of some columns by name, such as "string" for a code with leading zeros. Those
            of others are found out.
        delimiter: Of a CSV file: what stands between cells. A comma by default, in `.tsv` a tab.
        encoding: Of a CSV file: how characters are stored.
        may_be_empty: Whether a table without rows is no error.

    Returns:
        The source.

    Raises:
        UsageError: If the data cannot be read: one line names the file, where it helps the row and column, and the way
            out.

    Example:

    >>> source = open({"height": np.array([1.8, np.nan]), "name": np.array(["a", "b"])})
    >>> source.describe()
    'dict: 2 rows, 2 columns (1 number, 1 text)'
    >>> [block.numbers.tolist() for block in source.blocks()]
    [[[1.8], [nan]]]
    """
    common: dict[str, Any] = {"columns": columns, "label": label, "batch_rows": batch_rows}
    if isinstance(data, (str, os.PathLike)):
        options = CsvOptions(dict(dtypes or {}), delimiter, encoding)
        made = _files.path(os.fspath(data), **common, options=options)
    else:
        made = _of_object(data, common)
    if label is not None and not made.labels:
        chosen_names(made.schema.names, [label], made.name)
        made.labels = (label,)
    made.may_be_empty = may_be_empty
    if made.num_rows == 0 and not may_be_empty:
        raise UsageError(f"{made.name} has no rows.")
    return made


def _of_object(data: Any, common: dict[str, Any]) -> Source:
    if data is None or isinstance(data, (int, float, bytes)):
        raise UsageError(f"A table must be a path, an array, a frame or a data set. Received: {type(data).__name__}.")
    if _datasets.is_dataset(data):
        return _datasets.dataset(data, **common)
    if _datasets.is_pydataset(data):
        return _datasets.pydataset(data, **common)
    if isinstance(data, np.ndarray):
        return _chunks.of_memory("array", data, **common)
    if isinstance(data, Mapping):
        return _chunks.of_memory("dict", dict(data), **common)
    if isinstance(data, (list, tuple)):
        return _of_sequence(data, common)
    frame = _frames.frame(data, columns=common["columns"], batch_rows=common["batch_rows"])
    if frame is not None:
        return frame
    if hasattr(data, "__array__"):
        return _chunks.of_memory(type(data).__name__, np.asarray(data), **common)
    if isinstance(data, Iterable) or callable(data):
        return _datasets.iterable(data, **common)
    raise UsageError(f"A table must be a path, an array, a frame or a data set. Received: {type(data).__name__}.")


def _of_sequence(data: Sequence[Any], common: dict[str, Any]) -> Source:
    if not len(data):
        raise UsageError(f"{type(data).__name__} has no rows.")
    if isinstance(data, list) and _datasets.is_of_batches(data):
        return _datasets.iterable(data, **common)
    if isinstance(data, list) and isinstance(data[0], Mapping):
        names = list(dict.fromkeys(name for row in data for name in row))
        columns = {name: [row.get(name) for row in data] for name in names}
        return _chunks.of_memory("list of dicts", columns, **common)
    if isinstance(data, tuple):
        return _chunks.of_memory("tuple", data, **common)
    return _chunks.of_memory("list", data, **common)
