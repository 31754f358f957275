"""Tables whose rows are steps in time: filling from the neighbours of a gap, and finding numbers that jump."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)

METHODS = ("ffill", "bfill", "interpolate")


class _Runs:
    """The rows of a block, sorted so that each sequence is one run of rows in their old order.

    Args:
        codes: Shape (rows,): the number of each row's sequence, -1 for none.
    """

    def __init__(self, codes: Codes) -> None:
        self.order = np.argsort(codes, kind="stable")
        self.sequences, self.starts, self.sizes = np.unique(codes[self.order], return_index=True, return_counts=True)
        self.run = np.repeat(np.arange(len(self.sizes)), self.sizes)  # of each row
        self.rank = np.arange(len(codes)) - self.starts[self.run]  # of each row in its run

    def unsorted(self, rows: NDArray[T]) -> NDArray[T]:
        """Sorted rows in their old order."""
        made = np.empty_like(rows)
        made[self.order] = rows
        return made


@dataclasses.dataclass(frozen=True)
class Edges:
    """For one block, each of its sequences and each column: the nearest known cell in the blocks on either side.

    Attributes:
        first: Shape (sequences,): the place in its sequence of the first row that the block has of it.
        before, after: Shape (sequences, columns): the numbers, NaN where there is none.
        before_place, after_place: Shape (sequences, columns): their places in their sequence.
    """

    first: Codes
    before: Floats
    before_place: Codes
    after: Floats
    after_place: Codes


def edges(blocks: Iterable[tuple[Codes, Floats]]) -> list[Edges]:
    """Goes once through a table, as pairs of codes and rows, and finds what each block has to know of the others.

    Of each block and sequence only the first and the last known cells are kept, so that a table of any length takes
    little memory, unless it has as many sequences as rows.

    Args:
        blocks: The codes, shape (rows,), say which sequence a row belongs to; -1 is none.
    """
    found: list[tuple[_Ends, _Ends]] = []
    firsts: list[Codes] = []
    counts = np.zeros(1, np.int64)  # of the rows so far; the first is of the rows in no sequence
    for codes, rows in blocks:
        runs = _Runs(codes)
        slots = runs.sequences + 1
        counts = np.pad(counts, (0, max(0, int(slots.max(initial=0)) + 1 - len(counts))))
        firsts.append(counts[slots])
        counts[slots] += runs.sizes
        found.append(_ends(rows[runs.order], runs, firsts[-1]))
    before = _carried([last for _, last in found], len(counts))
    after = _carried([first for first, _ in found[::-1]], len(counts))[::-1]
    return [Edges(first, *left, *right) for first, left, right in zip(firsts, before, after, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Ends:
    """The first or the last known cell of each sequence of a block and each column, NaN where there is none."""

    slots: Codes
    values: Floats
    places: Codes


def _ends(rows: Floats, runs: _Runs, first: Codes) -> tuple[_Ends, _Ends]:
    is_known = ~np.isnan(rows)
    numbers = np.arange(len(rows))[:, None]
    top = np.minimum.reduceat(np.where(is_known, numbers, len(rows)), runs.starts, axis=0)
    bottom = np.maximum.reduceat(np.where(is_known, numbers, -1), runs.starts, axis=0)
    columns = np.arange(rows.shape[1])

    def at(row: Codes) -> _Ends:
        values = np.where(bottom >= 0, rows[np.minimum(row, len(rows) - 1), columns], np.nan)
        return _Ends(runs.sequences + 1, values, row - runs.starts[:, None] + first[:, None])

    return at(top), at(bottom)


def _carried(ends: Sequence[_Ends], num_slots: int) -> list[tuple[Floats, Codes]]:
    """For each block and sequence the nearest known cell of the blocks before it in the list."""
    if not ends:
        return []
    shape = num_slots, ends[0].values.shape[1]
    values, places = np.full(shape, np.nan), np.zeros(shape, np.int64)
    found = []
    for end in ends:
        found.append((values[end.slots], places[end.slots]))
        is_known = ~np.isnan(end.values)
        values[end.slots] = np.where(is_known, end.values, values[end.slots])
        places[end.slots] = np.where(is_known, end.places, places[end.slots])
    return found


def fill(rows: Floats, method: str, codes: Codes, around: Edges) -> Floats:
    """Fills the gaps of a block from the neighbours of each gap in its sequence and column.

    Args:
        rows: Shape (rows, columns), missing cells as NaN.
        method: "ffill" repeats the last known number, "bfill" the next, "interpolate" goes from one to the other in a
            straight line by the place in the sequence, and repeats the only one at its ends.
        codes: Shape (rows,): which sequence each row belongs to; -1 is none, and is not filled.
        around: What the block has to know of the others.

    Returns:
        The rows; a cell that has no neighbour to be filled from stays NaN.
    """
    runs = _Runs(codes)
    ordered = rows[runs.order]
    places = around.first[runs.run] + runs.rank
    before, before_place = _nearest(
        ordered, places, runs.starts[runs.run], around.before[runs.run], around.before_place[runs.run]
    )
    ends = len(rows) - runs.starts - runs.sizes
    after, after_place = (
        each[::-1]
        for each in _nearest(
            ordered[::-1],
            places[::-1],
            ends[runs.run][::-1],
            around.after[runs.run][::-1],
            around.after_place[runs.run][::-1],
        )
    )
    if method == "interpolate":
        share = (places[:, None] - before_place) / np.maximum(after_place - before_place, 1)
        filled = before + share * (after - before)
        filled = np.where(np.isnan(before), after, np.where(np.isnan(after), before, filled))
    else:
        filled = before if method == "ffill" else after
    filled = runs.unsorted(filled)
    return np.where(np.isnan(rows) & (codes >= 0)[:, None], filled, rows)


def _nearest(rows: Floats, places: Codes, start: Codes, edge: Floats, edge_place: Codes) -> tuple[Floats, Codes]:
    """For each cell the last known one at or above it in its run, which begins at `start`, and that one's place."""
    number = np.where(np.isnan(rows), -1, np.arange(len(rows))[:, None])
    np.maximum.accumulate(number, axis=0, out=number)
    is_here = number >= start[:, None]
    columns = np.arange(rows.shape[1])
    return np.where(is_here, rows[number, columns], edge), np.where(is_here, places[number], edge_place)


def heads(codes: Codes, number: int) -> NDArray[np.bool_]:
    """Which rows are among the first ones of their sequence in a block; of the block turned round, the last ones."""
    runs = _Runs(codes)
    return runs.unsorted(runs.rank < number)


def hampel(rows: Floats, *, window: int, threshold: float, codes: Codes | None = None) -> NDArray[np.bool_]:
    """Which cells are far from the median of their neighbourhood: the Hampel filter.

    Args:
        rows: Shape (rows, columns), in time order, missing cells as NaN, which take no part.
        window: How many rows on either side make the neighbourhood.
        threshold: How many scaled median absolute deviations are too far. A neighbourhood without any spread judges
            nothing.
        codes: Shape (rows,): which sequence each row belongs to; -1 is none, and is not judged. All rows are one
            sequence if left out.

    References:
        Hampel, *The influence curve and its role in robust estimation*, JASA 1974; Pearson et al., *Generalized Hampel
        filters*, EURASIP Journal on Advances in Signal Processing 2016.
    """
    if codes is not None:
        runs = _Runs(codes)
        # Missing rows part the sequences: in each neighbourhood there are those of one.
        apart = np.arange(len(rows)) + window * runs.run
        spread_out = np.full((len(rows) + window * len(runs.sizes), rows.shape[1]), np.nan)
        spread_out[apart] = rows[runs.order]
        judged = hampel(spread_out, window=window, threshold=threshold)[apart]
        return runs.unsorted(judged) & (codes >= 0)[:, None]
    padded = np.pad(rows, ((window, window), (0, 0)), constant_values=np.nan)
    found = np.zeros(rows.shape, np.bool_)
    step = max(1, (1 << 22) // ((2 * window + 1) * max(rows.shape[1], 1)))
    for start in range(0, len(rows), step):
        piece = padded[start : start + step + 2 * window]
        views = np.lib.stride_tricks.sliding_window_view(piece, 2 * window + 1, axis=0)
        median = _median(views)
        spread = 1.4826 * _median(np.abs(views - median[..., None]))
        here = rows[start : start + len(views)]
        with np.errstate(invalid="ignore"):
            found[start : start + len(views)] = (np.abs(here - median) > threshold * spread) & (spread > 0)
    return found


def _median(views: Floats) -> Floats:
    """The median of the numbers in the last axis that are not NaN; NaN where there are none."""
    ordered = np.sort(views, axis=-1)  # NaN goes last
    count = np.count_nonzero(~np.isnan(ordered), axis=-1)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[..., None], -1)[..., 0]
    high = np.take_along_axis(ordered, np.maximum(count // 2 - (count == 0), 0)[..., None], -1)[..., 0]
    return np.asarray(np.where(count > 0, (low + high) / 2, np.nan))
