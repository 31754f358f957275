"""A file that is there as a whole or not at all."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from nanguard.clean.sources import _arrow
from nanguard.clean.sources._messages import reason
from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


class Writer(abc.ABC):
    """Writes batches into a draft beside the target, which takes the target's name once all is on the disk.

    Args:
        path: The target.
        schema: The columns of all batches.

    Attributes:
        path: The target.
        num_rows: Rows written so far.
        notes: Words that a Parquet file keeps beside its columns.

    Raises:
        UsageError: If a column is of a type that such a file cannot hold, or if the file cannot be written.
    """

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.num_rows = 0
        self.notes: dict[str, str] = {}
        target = os.path.realpath(path)
        self._target = target
        self._draft = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{os.getpid()}.tmp")
        self._is_finished = self._is_settled = False

    # -- what a format does

    @abc.abstractmethod
    def _start(self) -> None:
        """Opens the draft."""

    @abc.abstractmethod
    def _add(self, batch: pa.RecordBatch) -> None:
        """Writes a batch of the schema."""

    @abc.abstractmethod
    def _end(self) -> None:
        """Writes what comes last, and brings all of it to the disk."""

    def _stop(self) -> None:  # noqa: B027 - a format that keeps nothing open has nothing to do
        """Lets go of whatever is open; must not raise."""

    # -- what all do

    def __enter__(self) -> Writer:
        with self._told():
            self._start()
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Writes some rows; a batch of no rows is none.

        Raises:
            UsageError: If they cannot be written, or do not have the columns of the file. Nothing is left of the file
                then.
        """
        if not batch.num_rows:
            return
        with self._told():
            self._add(_arrow.conform(batch, self.schema, self.path, self.num_rows))
        self.num_rows += batch.num_rows

    def finish(self) -> None:
        """Brings all rows to the disk, still without the file's name; twice is as once."""
        if not self._is_finished:
            with self._told():
                self._end()
            self._is_finished = True

    def commit(self) -> None:
        """Gives the file its name; twice is as once."""
        if self._is_settled:
            return
        self.finish()
        with self._told():
            os.replace(self._draft, self._target)
        self._is_settled = True
        sync_folder(os.path.dirname(self._target))

    def discard(self) -> None:
        """Leaves nothing of what was not given its name."""
        if self._is_settled:
            return
        self._is_settled = True
        with contextlib.suppress(Exception):
            self._stop()
        with contextlib.suppress(OSError):
            os.unlink(self._draft)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Makes one line of what goes wrong, after taking away what was written."""
        try:
            yield
        except UsageError:
            self.discard()
            raise
        except Exception as error:
            self.discard()
            if not _is_of_writing(error):
                raise
            why = getattr(error, "strerror", None) or reason(error).rstrip(".")
            raise UsageError(f"{self.path} cannot be written: {why}. Nothing of it was kept.") from error
        except BaseException:
            self.discard()
            raise


def _is_of_writing(error: Exception) -> bool:
    # TensorFlow's and Arrow's own errors are no OSError.
    return isinstance(error, OSError) or type(error).__module__.startswith(("pyarrow", "tensorflow"))


def draft(path: str) -> IO[bytes]:
    """A new file, which nobody else has opened."""
    return open(path, "xb")


def sync_file(stream: Any) -> None:
    """Brings what was written to the disk itself."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: str) -> None:
    """Brings a change of names to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def refuse(path: str, schema: pa.Schema, is_fit: Any, kind: str) -> None:
    """Refuses columns of a type that a format cannot hold."""
    for field in schema:
        if not is_fit(field.type):
            raise UsageError(
                f"{path}: {kind} cannot hold column {field.name!r}, which is {_arrow.word_of(field)}. Write .parquet."
            )


def is_nested(kind: pa.DataType) -> bool:
    """Whether a cell holds several values."""
    types = need("pyarrow").types
    return bool(types.is_nested(kind) or types.is_map(kind))


def plain(schema: pa.Schema) -> pa.Schema:
    """The schema with the values of dictionaries themselves, and text as every format knows it."""
    pa = need("pyarrow")
    kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in schema.types]
    kinds = [pa.string() if pa.types.is_string_view(kind) else kind for kind in kinds]
    return pa.schema([field.with_type(kind) for field, kind in zip(schema, kinds, strict=True)])
