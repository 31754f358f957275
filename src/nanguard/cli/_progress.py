"""How far a long pass over a data set has come, on a terminal's stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


class Shown:
    """A source that shows how many of its rows were read.

    Args:
        source: What is read.
        what: What is done with it, in a word.
    """

    def __init__(self, source: Any, what: str) -> None:
        self._source = source
        self._what = what

    @property
    def unwatched(self) -> Any:
        """The source itself, for an engine that reads it elsewhere."""
        return self._source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def blocks(self) -> Iterator[Any]:
        """The source's blocks, counted as they pass."""
        from tqdm import tqdm

        with tqdm(
            total=self._source.num_rows, desc=self._what, unit=" rows", unit_scale=True, leave=False, delay=1,
            disable=not sys.stderr.isatty(), file=sys.stderr,
        ) as bar:  # fmt: skip
            for block in self._source.blocks():
                yield block
                bar.update(len(block))
