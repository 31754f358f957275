"""One way to write every kind of file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nanguard.clean.block import Schema
from nanguard.clean.sources import _arrow
from nanguard.clean.sources._files import kind_of
from nanguard.clean.writers._npz import NpzWriter, arrays_of
from nanguard.clean.writers._tables import CsvWriter, ParquetWriter
from nanguard.clean.writers._tfrecord import TfrecordWriter
from nanguard.clean.writers._writer import Writer
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_WRITERS: dict[str, type[Writer]] = {
    "parquet": ParquetWriter,
    "csv": CsvWriter,
    "npz": NpzWriter,
    "npy": NpzWriter,
    "tfrecord": TfrecordWriter,
}


def open(path: str | os.PathLike[str], schema: Schema | pa.Schema, *, like: Any = None, force: bool = False) -> Writer:
    """Makes a writer, to be used in a `with` statement.

    The rows go to a draft in the same folder. At the end of the `with` statement it is brought to the disk and takes
    the file's name; after an error it is taken away, and a file that was there before is as it was.

    Args:
        path: Where to; the ending of the name tells the format: .parquet, .csv, .tsv (both with .gz too), .npz, .npy or
            .tfrecord.
        schema: The columns, of a source or of Arrow.
        like: The Arrow schema of the batches, where that is another one: what `schema_after` gives.
        force: Whether a file that is there already may be overwritten.

    Raises:
        UsageError: If the file exists and `force` is False; if the format is not known or cannot hold a column; if it
            cannot be written.

    Example:

    >>> import tempfile
    >>> import pyarrow as pa
    >>> batch = pa.record_batch({"height": [1.7, None]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(f"{folder}/rows.csv", batch.schema) as writer:
    ...         writer.write(batch)
    ...     os.listdir(folder)
    ['rows.csv']
    """
    path = os.fspath(path)
    columns = like if like is not None else _arrow.arrow_of(schema) if isinstance(schema, Schema) else schema
    kind = kind_of(path)
    if kind is None or path.lower().endswith((".bz2", ".zst", ".lz4")):
        raise UsageError(f"{path} is of no kind that is written: .parquet, .csv, .csv.gz, .npz, .npy or .tfrecord.")
    if kind == "npy" and len(arrays_of(columns)) > 1:
        raise UsageError(f"{path}: an NPY file holds one array, and these are {len(arrays_of(columns))}. Write .npz.")
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder. Name a file.")
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} exists. To overwrite it, add --force.")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UsageError(f"{path} cannot be written: there is no folder {folder}.")
    return _WRITERS[kind](path, columns)
