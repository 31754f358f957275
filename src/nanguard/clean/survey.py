"""All that one pass over a table learns: the object that every engine fills, sends and adds up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.accumulator import Accumulator
from nanguard.clean.block import Block, Schema
from nanguard.clean.categories import Categories, Times
from nanguard.clean.options import Options
from nanguard.clean.sentinels import without
from nanguard.errors import UsageError


class Survey:
    """What was seen of a table's rows so far.

    Surveys that were made from one pilot add up, in any order and from any split of the rows, to the survey of the
    whole.

    Args:
        schema: The columns.
        numbers: An accumulator of no rows, for the columns of numbers.
        options: What stands for a missing cell.
    """

    def __init__(self, schema: Schema, numbers: Accumulator, options: Options) -> None:
        self.schema = schema
        self.numbers = numbers
        self.options = options
        self.num_whole = 0  # rows that miss no cell
        self.num_blank = 0  # rows without any number
        self.categories = {name: Categories() for name in schema.categories}
        self.times = {name: Times() for name in schema.datetimes}

    @classmethod
    def pilot(cls, schema: Schema, block: Block, options: Options, *, with_products: bool = True) -> Survey:
        """An empty survey that takes a table's scales from its first rows."""
        rows = without(block.numbers, schema.numbers, options)
        return cls(schema, Accumulator.pilot(schema.numbers, rows, with_products=with_products), options)

    def empty(self) -> Survey:
        """A survey of no rows that can be merged with this one."""
        return Survey(self.schema, self.numbers.empty(), self.options)

    def update(self, block: Block) -> None:
        """Takes in rows."""
        rows = without(block.numbers, self.schema.numbers, self.options)
        self.numbers.update(rows, first_row=block.first_row, num_nulls=block.num_nulls)
        for name, categories in self.categories.items():
            categories.add(block.column(name))
        for name, times in self.times.items():
            times.add(block.column(name))
        self._count_rows(rows, [block.column(name) for name in (*self.categories, *self.times)])

    def _count_rows(self, rows: NDArray[np.float64], others: Sequence[Any]) -> None:
        is_finite = np.isfinite(rows)
        is_whole = is_finite.all(1)
        for column in others:
            if column.null_count:
                is_whole &= column.is_valid().to_numpy(zero_copy_only=False)
        self.num_whole += int(is_whole.sum())
        self.num_blank += len(rows) - int(is_finite.any(1).sum()) if rows.shape[1] else 0

    def merge(self, other: Survey) -> None:
        """Takes in what another survey of the same table has seen of other rows."""
        self.numbers.merge(other.numbers)
        self.num_whole += other.num_whole
        self.num_blank += other.num_blank
        for name, categories in self.categories.items():
            categories.merge(other.categories[name])
        for name, times in self.times.items():
            times.merge(other.times[name])


def survey(schema: Schema, blocks: Iterable[Block], options: Options, *, with_products: bool = True) -> Survey:
    """Goes once through blocks of rows; the first of them is the pilot.

    Raises:
        UsageError: If there is no row.
    """
    total: Survey | None = None
    for block in blocks:
        if total is None:
            total = Survey.pilot(schema, block, options, with_products=with_products)
        total.update(block)
    if total is None:
        raise UsageError("There is no row in the data.")
    return total
