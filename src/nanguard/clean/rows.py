"""Rows as a whole: which cannot be repaired, and which are too odd to be trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.options import Options
from nanguard.clean.recipe import Cleaned

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# scikit-learn's trees hold float32.
_LARGEST = 3e38


class Reasons:
    """Why which rows are set aside.

    Args:
        num_rows: How many rows there are.
        names: The columns of numbers.
    """

    def __init__(self, num_rows: int, names: tuple[str, ...]) -> None:
        self.names = names
        self.is_bad = np.zeros(num_rows, np.bool_)
        self._found: list[tuple[str, Mask, Mask, str | None]] = []

    def add(self, reason: str, is_bad: Mask, cells: Mask | None = None, *, column: str | None = None) -> None:
        """Sets rows aside.

        Args:
            reason: Why, in a few words.
            is_bad: Shape (rows,).
            cells: Shape (rows, columns): which cells are to blame; none in particular if left out.
            column: The one column that is to blame, if it is none of numbers.
        """
        self.is_bad |= is_bad
        if is_bad.any():
            cells = np.zeros((len(is_bad), len(self.names)), np.bool_) if cells is None else cells
            self._found.append((reason, is_bad, cells, column))

    def counts(self) -> dict[str, int]:
        """How many rows each reason concerns."""
        return {reason: int(is_bad.sum()) for reason, is_bad, *_ in self._found}

    def of(self, rows: NDArray[np.intp]) -> tuple[list[list[str]], list[list[str]]]:
        """For each of some rows the columns that are to blame and the reasons, in the order in which they were found.

        Many rows have the same ones: those are told once.
        """
        size = len(self.names)
        is_why = np.stack([is_bad[rows] for _, is_bad, *_ in self._found], 1)
        blamed = np.zeros((len(rows), size), np.bool_)
        for place, (_, _, cells, _) in enumerate(self._found):
            blamed |= cells[rows] & is_why[:, place, None]
        packed = np.packbits(np.concatenate([blamed, is_why], 1), axis=1)
        kinds, first, kind = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        told = [self._told(blamed[row], is_why[row]) for row in first[: len(kinds)]]
        return [told[each][0] for each in kind.ravel()], [told[each][1] for each in kind.ravel()]

    def _told(self, blamed: Mask, is_why: Mask) -> tuple[list[str], list[str]]:
        names = [self.names[place] for place in np.flatnonzero(blamed)]
        found = [self._found[place] for place in np.flatnonzero(is_why)]
        return [*names, *(column for *_, column in found if column is not None)], [reason for reason, *_ in found]


def judge(reasons: Reasons, cleaned: Cleaned, raw: Floats, options: Options, forest: Any, *, takes_out: bool) -> None:
    """Finds the rows that are to be taken out: odd ones if outliers are, and those that have nothing to fill from.

    Args:
        reasons: Where they are noted.
        cleaned: The rows after the recipe.
        raw: The rows before it.
        options: What is done about outliers.
        forest: A fitted isolation forest, where rows are judged by one.
        takes_out: Whether rows that cannot be repaired leave; outliers do where the options say so.
    """
    # A prediction from the rest of a row needs a rest.
    if takes_out and options.impute in ("gaussian", "knn", "trees") and cleaned.is_missing.shape[1] > 1:
        reasons.add("all numbers are missing", np.asarray(cleaned.is_missing.all(1)), cleaned.is_missing)
    if options.outliers not in ("drop", "quarantine"):
        return
    if options.bounds == "mahalanobis":
        reasons.add("far from all rows together (Mahalanobis)", cleaned.is_odd)
    elif options.bounds == "isolation_forest":
        reasons.add(
            "apart from all rows together (isolation forest)", forest.predict(np.clip(raw, -_LARGEST, _LARGEST)) < 0
        )
    else:
        reasons.add(f"outlier ({options.bounds})", np.asarray(cleaned.is_outlier.any(1)), cleaned.is_outlier)


def isolation_forest(sample: Floats, options: Options) -> Any:
    """Fits scikit-learn's forest to a sample of rows.

    References:
        Liu, Ting and Zhou, *Isolation Forest*, ICDM 2008.
    """
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(contamination=min(options.limit, 0.5), random_state=0)
    return forest.fit(np.clip(sample, -_LARGEST, _LARGEST))
