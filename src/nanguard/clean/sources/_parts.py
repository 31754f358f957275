"""A table of files cut into parts that can be read by different processes."""

from __future__ import annotations

import dataclasses

from nanguard.clean.block import Block
from nanguard.clean.sources._files import Files
from nanguard.clean.sources._parquet import ParquetSource
from nanguard.clean.sources._source import Source
from nanguard.errors import UsageError

# A part of a Parquet file has at least so many rows, if its row groups are smaller.
_ROWS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the rows of a table.

    Attributes:
        source: Reads them; it can be pickled.
        files: The table of several files that the part belongs to, or None.
        place: Which of these files it is from.
    """

    source: Source
    files: Files | None = None
    place: int = 0

    def placed(self, block: Block, first_row: int) -> Block:
        """A block of the part as one of the table, of which the part's first row has the given number."""
        row = first_row + block.first_row
        if self.files is None:
            return dataclasses.replace(block, first_row=row)
        return self.files.placed(block, self.files.sources[self.place], first_row)


def parts(source: Source) -> list[Part]:
    """Cuts a source into parts, in the order of its rows.

    Raises:
        UsageError: If it is not made of files.
    """
    inner = getattr(source, "unwatched", source)
    if isinstance(inner, Files):
        return [
            dataclasses.replace(part, files=inner, place=place)
            for place, file in enumerate(inner.sources)
            for part in parts(file)
        ]
    if isinstance(inner, ParquetSource):
        return [Part(piece) for piece in inner.split(_ROWS)]
    if getattr(inner, "file", None) is None:
        raise UsageError(f"{source.name} is in this process's memory: leave out the engine, or write it to a file.")
    return [Part(inner)]
