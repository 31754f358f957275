"""Ways to fill that look at other rows: each learns from a pass of its own, and then fills block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import sequences
from nanguard.clean.block import Block, Schema
from nanguard.clean.options import Options
from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

Floats = NDArray[np.float64]
# A block, and the rows of its columns that are to be filled, bounded and with NaN for every gap.
Pair = tuple[Block, Floats]


class ByPrediction:
    """Fills by a model that was fitted to a sample of rows: "knn" or "trees".

    Args:
        predictor: Has `fill(rows)`.
    """

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor

    def fill(self, block: Block, rows: Floats) -> Floats:
        """The rows with their gaps filled."""
        return np.asarray(self._predictor.fill(rows))


class Groups:
    """Numbers the groups of a table's rows, in the order in which they are met.

    Args:
        column: By whose values rows are grouped. A row without one belongs to no group. Without a column, all rows are
            one group.
        schema: The table's columns.

    Raises:
        UsageError: If there is no such column.
    """

    def __init__(self, column: str | None, schema: Schema) -> None:
        if column is not None and column not in schema.names:
            raise UsageError(f"There is no column {column!r} to group by. The table has: {', '.join(schema.names)}.")
        self._column, self._numbers = column, schema.numbers
        self._codes: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def codes(self, block: Block) -> NDArray[np.int64]:
        """The number of each row's group, -1 for none."""
        if self._column is None:
            return np.zeros(len(block), np.int64)
        if block.batch is None:  # a matrix
            numbers = block.numbers[:, self._numbers.index(self._column)]
            column = need("pyarrow").array(numbers, mask=np.isnan(numbers))
        else:
            column = block.column(self._column)
        encoded = column.dictionary_encode()
        values = encoded.dictionary.to_pylist()
        own = np.array([self._codes.setdefault(value, len(self._codes)) for value in values] or [0], np.int64)
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.where(places >= 0, own[places], -1)


class ByGroup:
    """Fills by the mean of the rows of the same group.

    Args:
        pairs: The whole table.
        groups: Numbers its rows' groups.
    """

    def __init__(self, pairs: Iterable[Pair], groups: Groups) -> None:
        self._groups = groups
        self._sums: list[Floats] = []
        self._counts: list[Floats] = []
        for block, rows in pairs:
            self._learn(groups.codes(block), rows)
        self._means = np.array(self._sums) / np.maximum(np.array(self._counts), 1)
        if len(groups):
            self._means[np.array(self._counts) == 0] = np.nan

    def _learn(self, codes: NDArray[np.int64], rows: Floats) -> None:
        while len(self._sums) < len(self._groups):
            self._sums.append(np.zeros(rows.shape[1]))
            self._counts.append(np.zeros(rows.shape[1]))
        is_known = ~np.isnan(rows)
        for code in np.unique(codes[codes >= 0]):
            here = codes == code
            self._sums[code] += np.where(is_known[here], rows[here], 0.0).sum(0)
            self._counts[code] += is_known[here].sum(0)

    def fill(self, block: Block, rows: Floats) -> Floats:
        """The rows with the means of their groups in their gaps; NaN where a group has no number."""
        codes = self._groups.codes(block)
        means = np.full(rows.shape, np.nan)
        is_known = (codes >= 0) & (codes < len(self._means))
        means[is_known] = self._means[codes[is_known]]
        return np.where(np.isnan(rows), means, rows)


class BySequence:
    """Fills from the rows before and after: "ffill", "bfill" or "interpolate".

    Args:
        pairs: The whole table, in its order.
        method: Which of the three.
        groups: Each group of rows is a sequence.
    """

    def __init__(self, pairs: Iterable[Pair], method: str, groups: Groups) -> None:
        self._method, self._groups = method, groups
        starts: list[int] = []

        def noted() -> Iterator[tuple[NDArray[np.int64], Floats]]:
            for block, rows in pairs:
                starts.append(block.first_row)
                yield groups.codes(block), rows

        self._edges = dict(zip(starts, sequences.edges(noted()), strict=False))

    def fill(self, block: Block, rows: Floats) -> Floats:
        """The rows with their gaps filled from their neighbours."""
        return sequences.fill(rows, self._method, self._groups.codes(block), self._edges[block.first_row])


def make(
    options: Options, pairs: Iterable[Pair], sample: Floats, groups: Groups
) -> ByPrediction | ByGroup | BySequence | None:
    """The filler that the options ask for; None for a way that the recipe has itself.

    Args:
        options: Of the cleaning.
        pairs: The whole table, which is gone through only where the way needs it.
        sample: Rows that stand for the table, bounded and with NaN for gaps.
        groups: Numbers the groups that its rows belong to.
    """
    if options.impute in ("knn", "trees"):
        from nanguard.clean import predictors

        return ByPrediction(predictors.fit(sample, method=options.impute))
    if options.impute == "group_mean":
        return ByGroup(pairs, groups)
    if options.impute in sequences.METHODS:
        return BySequence(pairs, options.impute, groups)
    return None
