"""What every engine does: the survey of a part, and the order in which surveys are merged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from nanguard.clean.options import Options
from nanguard.clean.sources import Part, Source
from nanguard.clean.survey import Survey

T = TypeVar("T")


def pilot(source: Source, options: Options, *, with_products: bool) -> Survey:
    """The empty survey that all parts of a source begin with: it takes the scales from the first rows."""
    reader: Any = source.blocks()
    with contextlib.closing(reader) as blocks:
        return Survey.pilot(source.schema, next(blocks), options, with_products=with_products)


def num_rows(part: Part) -> int:
    """Counts the rows of a part by reading it."""
    return sum(len(block) for block in part.source.blocks())


def learn(part: Part, first_row: int, pilot: Survey) -> Survey:
    """Surveys a part of a table, in a process that has a core to itself.

    Args:
        part: What is read.
        first_row: The number of its first row in the table.
        pilot: The empty survey.
    """
    from threadpoolctl import threadpool_limits

    found = pilot.empty()
    with threadpool_limits(1):
        for block in part.source.blocks():
            found.update(part.placed(block, first_row))
    return found


def merge(one: Survey, other: Survey) -> Survey:
    """The survey of both; engines may hand either to another task, so neither is changed."""
    total = one.empty()
    total.merge(one)
    total.merge(other)
    return total


def in_pairs(items: Sequence[T], merge: Callable[[T, T], T]) -> T:
    """Merges neighbours two by two, and what comes of it, to the last: sums do not depend on who is done first.

    Runs of a power of two may be merged on their own before: the pairs are the same.
    """
    level = list(items)
    while len(level) > 1:
        merged = [merge(*pair) for pair in zip(level[::2], level[1::2], strict=False)]
        level = merged + level[len(level) - len(level) % 2 :]
    return level[0]
