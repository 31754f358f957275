"""A cleaning that was fitted: what the layer, the functions and the command all apply."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.gaussian import Gaussian

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How each column of numbers is cleaned. All arrays have the shape (columns,) unless told otherwise.

    Attributes:
        names: The columns.
        low, high: The bounds; infinite where a column has none.
        fill: What a missing cell gets if nothing better is known; NaN leaves it missing.
        has_indicator: Of which columns an indicator is added.
        sentinels: For each column the numbers that stand for a missing cell.
        action: What is done beyond the bounds: "clip", "impute", "drop", "quarantine" or None.
        clips_infinite: Whether an infinity is a number beyond every bound; else it is missing.
        gaussian: What conditional means and distances are made of, or None.
        fills_by_gaussian: Whether a missing cell gets its conditional mean; else the Gaussian only judges rows.
        row_limit: The squared Mahalanobis distance at which a row is odd, for each count of cells that it has, from 0
            on, shape (columns + 1,); None where rows are not judged.
    """

    names: tuple[str, ...]
    low: Floats
    high: Floats
    fill: Floats
    has_indicator: Mask
    sentinels: tuple[tuple[float, ...], ...]
    action: str | None = None
    clips_infinite: bool = False
    gaussian: Gaussian | None = None
    fills_by_gaussian: bool = True
    row_limit: Floats | None = None

    def clean(
        self, rows: Floats, fill: Callable[[Floats], Floats] | None = None, is_outlier: Mask | None = None
    ) -> Cleaned:
        """Cleans rows.

        Args:
            rows: Shape (rows, columns), float64 with missing cells as NaN. They stay as they are.
            fill: Gives rows with their gaps filled, in place of the conditional mean; what it leaves gets `self.fill`.
            is_outlier: Which cells are outliers for another reason than their column's bounds.
        """
        found = np.array(rows, np.float64, order="F")
        for place, numbers in enumerate(self.sentinels):
            for number in numbers:
                found[found[:, place] == number, place] = np.nan
        if not self.clips_infinite:
            found[np.isinf(found)] = np.nan
        # A comparison with NaN is false: a missing cell is no outlier.
        is_beyond = (found < self.low) | (found > self.high)
        is_outlier = is_beyond if is_outlier is None else is_beyond | is_outlier
        if self.action == "impute":
            found[is_outlier] = np.nan
        elif self.action == "clip":
            np.clip(found, self.low, self.high, out=found)
        if self.clips_infinite:
            is_infinite = np.isinf(found)
            np.copyto(found, np.clip(found, self.low, self.high), where=is_infinite)
            # Where a column has no bound an infinity is missing all the same: nothing infinite leaves.
            found[np.isinf(found)] = np.nan
        is_missing = np.isnan(found)
        is_odd = np.zeros(len(found), np.bool_)
        if self.gaussian is not None and self.row_limit is not None:
            num_cells = (~is_missing).sum(1)
            is_odd = self.gaussian.distances(found) > self.row_limit[num_cells]
        if is_missing.any():
            if fill is None and self.gaussian is not None and self.fills_by_gaussian:
                fill = self.gaussian.fill
            if fill is not None:
                np.copyto(found, np.clip(fill(found), self.low, self.high), where=is_missing)
            np.copyto(found, self.fill, where=np.isnan(found) if fill is not None else is_missing)
        return Cleaned(found, is_missing, is_outlier, is_odd)

    @property
    def indicators(self) -> tuple[str, ...]:
        """The names of the columns of 0 and 1 that are added."""
        return indicators(self.names, self.has_indicator.tolist())

    def to_json(self) -> dict[str, Any]:
        """All of it as plain lists and numbers; an infinity or NaN as null."""
        gaussian = self.gaussian
        return {
            "names": list(self.names),
            **{name: _plain(getattr(self, name)) for name in ("low", "high", "fill")},
            "has_indicator": self.has_indicator.tolist(),
            "sentinels": [list(numbers) for numbers in self.sentinels],
            "action": self.action,
            "clips_infinite": self.clips_infinite,
            "gaussian": None if gaussian is None else {
                field.name: _plain(getattr(gaussian, field.name)) for field in dataclasses.fields(gaussian)
            },
            "fills_by_gaussian": self.fills_by_gaussian,
            "row_limit": None if self.row_limit is None else _plain(self.row_limit),
        }  # fmt: skip

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote down."""
        gaussian = given["gaussian"]
        return cls(
            names=tuple(given["names"]),
            low=_array(given["low"], -np.inf),
            high=_array(given["high"], np.inf),
            fill=_array(given["fill"], np.nan),
            has_indicator=np.asarray(given["has_indicator"], np.bool_),
            sentinels=tuple(tuple(numbers) for numbers in given["sentinels"]),
            action=given["action"],
            clips_infinite=given["clips_infinite"],
            gaussian=None if gaussian is None else Gaussian(**{k: _array(v, np.nan) for k, v in gaussian.items()}),
            fills_by_gaussian=given["fills_by_gaussian"],
            row_limit=None if given["row_limit"] is None else _array(given["row_limit"], np.inf),
        )


def indicators(names: Sequence[str], has_indicator: Sequence[bool]) -> tuple[str, ...]:
    """The names of the indicators of those columns that have one."""
    return tuple(f"{name}_missing" for name, has in zip(names, has_indicator, strict=True) if has)


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """Rows after a recipe.

    Attributes:
        rows: Shape (rows, columns), float64.
        is_missing: Which cells were missing, or were taken for it: what was filled.
        is_outlier: Which cells were beyond their column's bounds.
        is_odd: Shape (rows,): which rows are too far from the rest as a whole.
    """

    rows: Floats
    is_missing: Mask
    is_outlier: Mask
    is_odd: Mask


def _plain(array: Floats) -> Any:
    if array.ndim > 1:
        return [_plain(row) for row in array]
    return [float(number) if np.isfinite(number) else None for number in array]


def _array(given: Any, missing: float) -> Floats:
    rows = [[missing if x is None else x for x in (row if isinstance(row, list) else [row])] for row in given]
    array = np.array(rows, np.float64)
    return array if given and isinstance(given[0], list) else array.reshape(-1)
