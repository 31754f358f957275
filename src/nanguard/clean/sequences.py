"""Tables whose rows are steps in time: filling from the neighbours of a gap, and finding numbers that jump."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

METHODS = ("ffill", "bfill", "interpolate")


@dataclasses.dataclass(frozen=True)
class Edges:
    """For one block and each column: the nearest known cell on either side of it, within the same sequence.

    Attributes:
        before, after: Shape (columns,): the numbers, NaN where there is none.
        before_row, after_row: Shape (columns,): their rows, counted from the start of the table.
    """

    before: Floats
    before_row: NDArray[np.int64]
    after: Floats
    after_row: NDArray[np.int64]


def edges(blocks: Iterable[tuple[int, Floats]]) -> list[Edges]:
    """Goes once through a table, as pairs of first row and rows, and finds what each block has to know of the others.

    Of each block only its first and its last known cells are kept, so that a table of any length takes little memory.
    """
    firsts: list[tuple[Floats, NDArray[np.int64]]] = []
    lasts: list[tuple[Floats, NDArray[np.int64]]] = []
    for first_row, rows in blocks:
        is_known = ~np.isnan(rows)
        has = is_known.any(0)
        first = np.where(has, is_known.argmax(0), -1)
        last = np.where(has, len(rows) - 1 - is_known[::-1].argmax(0), -1)
        columns = np.arange(rows.shape[1])
        for kept, places in ((firsts, first), (lasts, last)):
            values = np.where(has, rows[places, columns], np.nan) if len(rows) else np.full(rows.shape[1], np.nan)
            kept.append((values, places + first_row))
    before = _carried(lasts)
    after = _carried(firsts[::-1])[::-1]
    return [Edges(*left, *right) for left, right in zip(before, after, strict=True)]


def _carried(ends: list[tuple[Floats, NDArray[np.int64]]]) -> list[tuple[Floats, NDArray[np.int64]]]:
    """For each block the nearest known cell of those before it in the list."""
    found: list[tuple[Floats, NDArray[np.int64]]] = []
    for values, rows in ends:
        if not found:
            carried = np.full(values.shape, np.nan), np.zeros(values.shape, np.int64)
        found.append(carried)
        is_known = ~np.isnan(values)
        carried = np.where(is_known, values, carried[0]), np.where(is_known, rows, carried[1])
    return found


def fill(rows: Floats, method: str, first_row: int, around: Edges) -> Floats:
    """Fills the gaps of a block from the neighbours of each gap in its column.

    Args:
        rows: Shape (rows, columns), missing cells as NaN.
        method: "ffill" repeats the last known number, "bfill" the next, "interpolate" goes from one to the other in a
            straight line by row number, and repeats the only one at the ends of the table.
        first_row: The number of the first row in the table.
        around: What the block has to know of the others.

    Returns:
        The rows; a cell that has no neighbour to be filled from stays NaN.
    """
    numbers = np.arange(first_row, first_row + len(rows))[:, None]
    is_known = ~np.isnan(rows)
    before, before_row = _nearest(rows, is_known, numbers, around.before, around.before_row)
    if method == "ffill":
        return np.where(is_known, rows, before)
    flipped = _nearest(rows[::-1], is_known[::-1], numbers[::-1], around.after, around.after_row)
    after, after_row = flipped[0][::-1], flipped[1][::-1]
    if method == "bfill":
        return np.where(is_known, rows, after)
    share = (numbers - before_row) / np.maximum(after_row - before_row, 1)
    between = before + share * (after - before)
    one_sided = np.where(np.isnan(before), after, before)
    return np.where(is_known, rows, np.where(np.isnan(before) | np.isnan(after), one_sided, between))


def _nearest(
    rows: Floats, is_known: NDArray[np.bool_], numbers: NDArray[np.int64], edge: Floats, edge_row: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64]]:
    """For each cell the last known one at or above it, and its row number."""
    place = np.where(is_known, np.arange(len(rows))[:, None], -1)
    np.maximum.accumulate(place, axis=0, out=place)
    is_here = place >= 0
    columns = np.arange(rows.shape[1])
    values = np.where(is_here, rows[place, columns], edge)
    return values, np.where(is_here, numbers[place, 0], edge_row)


def hampel(rows: Floats, *, window: int, threshold: float) -> NDArray[np.bool_]:
    """Which cells are far from the median of their neighbourhood: the Hampel filter.

    Args:
        rows: Shape (rows, columns), in time order, missing cells as NaN, which take no part.
        window: How many rows on either side make the neighbourhood.
        threshold: How many scaled median absolute deviations are too far. A neighbourhood without any spread judges
            nothing.

    References:
        Hampel, *The influence curve and its role in robust estimation*, JASA 1974; Pearson et al., *Generalized Hampel
        filters*, EURASIP Journal on Advances in Signal Processing 2016.
    """
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
