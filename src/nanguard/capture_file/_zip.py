"""The container: a zip file that is written in one piece, and read within limits."""

from __future__ import annotations

import contextlib
import os
import zipfile
from types import TracebackType

from nanguard.errors import UsageError

_MOST_PACKED = 256 << 20  # bytes of one member that is compressed: JSON and graphs
_MOST_PACKED_TOTAL = 1 << 30
_MOST_MEMBERS = 200_000


class Writer:
    """Writes members into a file beside the target, which takes the target's name once all is on the disk.

    Args:
        path: The target.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        self._folder, name = os.path.split(self._path)
        self._draft = os.path.join(self._folder, f".{name}.{os.getpid()}.tmp")

    def __enter__(self) -> Writer:
        self._stream = open(self._draft, "xb")
        self._archive = zipfile.ZipFile(self._stream, "w", zipfile.ZIP_DEFLATED, allowZip64=True)
        return self

    def add(self, name: str, content: bytes, *, is_packed: bool = True) -> None:
        """Adds a member.

        Raises:
            UsageError: If it is too large to be read again.
        """
        if is_packed and len(content) > _MOST_PACKED:
            raise UsageError(f"the step is too large for a capture: {name} has {len(content) >> 20} MiB.")
        # Weights hardly shrink; and stored as they are, no file can blow up when it is read.
        self._archive.writestr(name, content, zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._archive.close()
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()
                os.replace(self._draft, self._path)
                _sync_folder(self._folder)
                return
            self._archive.close()
        except BaseException:
            self._discard()
            raise
        self._discard()

    def _discard(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._archive.close()
        with contextlib.suppress(OSError):
            self._stream.close()
        with contextlib.suppress(OSError):
            os.unlink(self._draft)


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # not every file system, nor every system, has it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Reader:
    """Reads members by name.

    Args:
        archive: The open zip file.
        size: Its size in bytes.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        members = archive.infolist()
        self._members = {member.filename: member for member in members}
        if len(members) > _MOST_MEMBERS or len(self._members) != len(members):
            raise ValueError("it holds too many members, or one of them twice")
        packed = stored = 0
        for member in members:
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename[:60]!r} is packed in a way that captures are not")
            if member.compress_type == zipfile.ZIP_DEFLATED:
                packed += member.file_size
                if member.file_size > _MOST_PACKED or packed > _MOST_PACKED_TOTAL:
                    raise ValueError("what it holds is larger than a capture's graphs can be")
            elif member.file_size != member.compress_size:
                raise ValueError(f"{member.filename[:60]!r} is not of its size")
            else:
                stored += member.file_size
        if stored > size:
            raise ValueError("its members lie over one another")

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self._members

    def read(self, name: str) -> bytes:
        """The content of a member; its checksum is compared."""
        member = self._members[name]
        with self._archive.open(member) as stream:
            # Never more than it says of itself, whatever comes out of the decompressor.
            content = stream.read(member.file_size)
            if len(content) != member.file_size or stream.read(1):
                raise ValueError(f"{name} is not of its size")
            return content
