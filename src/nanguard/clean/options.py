"""What to do about missing cells, infinities and outliers: one set of options for layer, functions and command."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

# What is made of one number for each column, or of the row's other cells; the layer has these.
IN_MODEL = ("gaussian", "mean", "median", "mode", "constant")
# What looks at other rows: of frames and files.
OUT_OF_MODEL = ("knn", "trees", "group_mean", "ffill", "bfill", "interpolate")
OF_GROUPS = ("group_mean", "ffill", "bfill", "interpolate")
ACTIONS = ("clip", "impute", "drop", "quarantine")
# Bounds of each column, with the threshold that their author gives.
THRESHOLDS = {
    "iqr": 3.0,  # Tukey's "far out": beyond the quartiles by so many interquartile ranges
    "mad": 3.5,  # Iglewicz and Hoaglin's modified z-score
    "zscore": 3.0,  # standard deviations from the mean
    "quantile": 0.001,  # the share of rows at each end
    "mahalanobis": 0.999,  # the quantile of the chi-squared law beyond which a row is odd
    "isolation_forest": 0.01,  # the share of rows held to be odd
    "hampel": 3.0,  # modified z-score within a window of the sequence
}
OF_ROWS = ("mahalanobis", "isolation_forest")
# What can be done where a row as a whole is judged, or a number by its neighbours.
ACTIONS_OF = {**dict.fromkeys(OF_ROWS, ("drop", "quarantine")), "hampel": ("impute", "drop", "quarantine")}
COVARIANCES = ("em", "pairwise")
INFINITE = ("missing", "clip")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do with a table.

    Attributes:
        impute: How a missing number is filled: "gaussian" (the conditional mean given the row's other cells), "mean",
            "median", "mode", "constant"; None leaves it. Of frames and files also "knn", "trees", "group_mean",
            "ffill", "bfill", "interpolate".
        fill_value: The number for "constant".
        group: The column by whose values "group_mean" takes means. For "ffill", "bfill", "interpolate" and the bounds
            of "hampel" the rows of each value are a sequence of their own, in the order of the table.
        outliers: What is done about a number beyond its column's bounds: "clip" moves it to the bound, "impute" takes
            it for missing, "drop" and "quarantine" take its row out; None does nothing.
        bounds: How bounds are found: "iqr", "mad", "zscore", "quantile"; by rows "mahalanobis" and "isolation_forest";
            in sequences "hampel".
        threshold: How far is too far, in the units of `bounds`; None takes its author's.
        window: For "hampel": how many rows on either side a number is compared with.
        indicators: Whether a column of 0 and 1, `NAME_missing`, is added for each column that had missing cells when it
            was fitted.
        covariance: What "gaussian" and "mahalanobis" are fitted by: "em", expectation-maximization on a sample of rows,
            or "pairwise", the products of all rows of the one pass, faster and less exact.
        infinite: What an infinity is: "missing", or "clip" for a number beyond every bound.
        sentinels: Numbers that stand for a missing cell, such as -999: for all columns, or by column, with "*" for
            those of all columns.
    """

    impute: str | None = "gaussian"
    fill_value: float = 0.0
    group: str | None = None
    outliers: str | None = "clip"
    bounds: str = "iqr"
    threshold: float | None = None
    window: int = 7
    indicators: bool = False
    covariance: str = "em"
    infinite: str = "missing"
    sentinels: Sequence[float] | Mapping[str, Sequence[float]] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("impute", self.impute, (*IN_MODEL, *OUT_OF_MODEL, None)),
            ("outliers", self.outliers, (*ACTIONS, None)),
            ("bounds", self.bounds, tuple(THRESHOLDS)),
            ("covariance", self.covariance, COVARIANCES),
            ("infinite", self.infinite, INFINITE),
        ):
            if value not in known:
                names = ", ".join(repr(each) for each in known)
                raise ValueError(f"`{name}` must be one of {names}. Received: {name}={value!r}.")
        if not math.isfinite(self.fill_value):
            raise ValueError(f"`fill_value` must be a finite number. Received: fill_value={self.fill_value}.")
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(f"`threshold` must be positive. Received: threshold={self.threshold}.")
        if self.window < 1:
            raise ValueError(f"`window` must be at least 1 row. Received: window={self.window}.")
        if self.outliers is not None and self.outliers not in ACTIONS_OF.get(self.bounds, ACTIONS):
            ways = " or ".join(repr(action) for action in ACTIONS_OF[self.bounds])
            raise ValueError(
                f"`bounds={self.bounds!r}` finds no bound to move a number to: give `outliers` as {ways}. "
                f"Received: outliers={self.outliers!r}."
            )
        if self.impute == "group_mean" and self.group is None:
            raise ValueError("`impute='group_mean'` needs `group`, the column by whose values to take means.")
        if self.group is not None and self.impute not in OF_GROUPS and self.bounds != "hampel":
            raise ValueError(
                f"`group` is for `impute` as {', '.join(map(repr, OF_GROUPS))} and for `bounds='hampel'`. "
                f"Received: group={self.group!r}, impute={self.impute!r}, bounds={self.bounds!r}."
            )

    @property
    def limit(self) -> float:
        """The threshold, or its default."""
        return THRESHOLDS[self.bounds] if self.threshold is None else self.threshold

    def sentinels_of(self, name: str) -> tuple[float, ...]:
        """The numbers that stand for a missing cell in a column."""
        given: Any = self.sentinels
        chosen = (*given.get(name, ()), *given.get("*", ())) if isinstance(given, Mapping) else given
        return tuple(float(number) for number in chosen)
