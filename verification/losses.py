"""Measures every loss beside Keras's of the same name, on the same labels and predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import keras
import mpmath
import numpy as np
import numpy.typing as npt

import nanguard.losses
from nanguard.intervals import float_format
from verification import grids
from verification.exceptions import ULP_BAR
from verification.grids import RANDOM, Grid
from verification.kinds import KINDS, Variant
from verification.loss_truth import Exact
from verification.numbers import Floats, as_float64, ulps
from verification.sweep import Failure, Mask, Result, Tally, runner
from verification.truth import PRECISION

OURS = "nanguard"
KERAS = "keras.losses"
LARGEST_POWER = 3 / 8  # 2.9e14 in float32, where squares and their sums are far from overflow


@dataclass
class LossFigures:
    """What was measured of one variant of a loss.

    Args:
        title: See `Variant`.
        tallies: The figures by arm, dtype and mode.
        failures: What could not be run.
    """

    title: str
    tallies: dict[tuple[str, str, str], Tally] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """Ours and Keras's, in this order."""
        return list(dict.fromkeys(arm for arm, _, _ in self.tallies))

    def of(self, arm: str, *, dtype: str, mode: str) -> Tally | None:
        """Gives one arm's figures, None if it was not run."""
        return self.tallies.get((arm, dtype, mode))


def measure(variant: Variant, *, dtypes: tuple[str, ...], modes: tuple[str, ...]) -> LossFigures:
    """Tries one loss, and Keras's of its name, on all rows of its grid."""
    figures = LossFigures(variant.title)
    for dtype in dtypes:
        grid = variant.family(dtype)
        truth = None if variant.exact is None else true_values(variant.exact, grid)
        for mode in modes:
            results: dict[str, Result] = {}
            for arm, module in ((OURS, nanguard.losses), (KERAS, keras.losses)):
                try:
                    function = variant.function(module, dtype)
                    if function is None:
                        continue
                    results[arm] = runner(function, mode=mode, fixed=1)((grid.y_true, grid.y_pred))
                except Exception as error:  # whatever it raises, the others are still to be measured
                    figures.failures.append(Failure.of(arm, dtype, mode, error))
            _count(figures, results, grid, truth, dtype=dtype, mode=mode)
    return figures


def true_values(exact: Exact, grid: Grid) -> tuple[Floats, Floats]:
    """Gives the right value of each row in float64, NaN where it cannot be judged, and where to count its ulp."""
    values, scales = np.full(len(grid.y_true), math.nan), np.full(len(grid.y_true), math.nan)
    y_true = grid.y_true
    if y_true.ndim == 1:  # class numbers
        y_true = np.eye(grid.y_pred.shape[-1])[y_true]
    flat = [as_float64(x).reshape(len(x), -1).tolist() for x in (y_true, grid.y_pred)]
    rows = zip(*flat, grid.in_domain, strict=True)
    with mpmath.workprec(PRECISION):
        for place, (y, p, in_domain) in enumerate(rows):
            if not in_domain:
                continue
            found = exact([mpmath.mpf(x) for x in y], [mpmath.mpf(x) for x in p])
            value, scale = found if isinstance(found, tuple) else (found, found)
            if mpmath.isfinite(value):
                values[place], scales[place] = float(value), float(abs(scale))
    return values, scales


def _count(
    figures: LossFigures,
    results: dict[str, Result],
    grid: Grid,
    truth: tuple[Floats, Floats] | None,
    *,
    dtype: str,
    mode: str,
) -> None:
    operands = (grid.y_true, grid.y_pred)
    ordinary = _ordinary(grid, dtype)
    errors = {arm: None if truth is None else _errors(result, truth, dtype) for arm, result in results.items()}
    for arm, result in results.items():
        tally = figures.tallies.setdefault((arm, dtype, mode), Tally())
        tally.add(result, operands)
        lost = result.has_zero_gradient & grid.is_wrong
        tally.zero += int(lost.sum())
        tally.note(lost, operands)
        own, other = errors[arm], errors[KERAS if arm == OURS else OURS] if len(errors) == 2 else None
        if own is None:
            continue
        # Where Keras gives no number its error is infinite, and ours is judged all the same.
        judged = ~np.isnan(own) if other is None else ~np.isnan(own) & ~np.isnan(other)
        seen = judged & np.isfinite(own)
        tally.judge(own[seen & ordinary], [operand[seen & ordinary] for operand in operands])
        if other is not None:
            with np.errstate(invalid="ignore"):
                is_farther = judged & (own > np.maximum(other, ULP_BAR))
            tally.farther += int((is_farther & ordinary).sum())
            tally.clamped += int((is_farther & ~ordinary).sum())
            if arm == OURS:
                tally.note(is_farther & ordinary, operands)


def _ordinary(grid: Grid, dtype: str) -> Mask:
    """Gives the rows that no loss clamps: their numbers are 0, or lie between the floor and where sums overflow."""
    limits = float_format(dtype)
    found = np.ones(len(grid.y_true), bool)
    for numbers in (grid.y_true, grid.y_pred):
        size = np.abs(as_float64(numbers)).reshape(len(numbers), -1)
        found &= ((size == 0) | ((size >= limits.floor) & (size <= limits.max**LARGEST_POWER))).all(axis=1)
    return found


def _errors(result: Result, truth: tuple[Floats, Floats], dtype: str) -> Floats:
    """Gives errors in ulp: infinite where the value is not finite, NaN where the truth is unknown or out of range."""
    right, scale = truth
    limits = float_format(dtype)
    value = as_float64(result.value).reshape(len(right))
    with np.errstate(all="ignore"):
        errors = ulps(value, right, dtype, scale)
        errors[~np.isfinite(value)] = np.inf
        # Near the smallest normal number the squares of which a loss is made are read as 0.
        underflows = (scale < limits.smallest_normal / limits.eps) & (right != 0)
        errors[~(np.abs(right) <= limits.max) | underflows] = np.nan
    return errors


def everyday(variant: Variant, side: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Gives float32 labels and predictions of `side` rows as trainings have them, to take the time with."""
    random = RANDOM(0)
    shape = (side, side)
    if variant.name == "CTC":  # 1M logits: targets of 20 labels out of 100, in 100 frames
        return random.integers(1, 100, (side // 10, 20)), random.normal(size=(side // 10, 100, 100)).astype(np.float32)
    if variant.kind.whole:
        return random.integers(0, 10, side), random.normal(size=shape).astype(np.float32)
    y_pred = random.normal(0, 2, shape) if variant.takes_logits else random.uniform(0.05, 0.95, shape)
    family = KINDS[variant.name].family
    if variant.name.startswith(("Categorical", "Sparse", "KL")):
        if not variant.takes_logits:
            y_pred /= y_pred.sum(axis=1, keepdims=True)
        labels = random.integers(0, side, side)
        if variant.name.startswith(("Sparse", "CategoricalGeneralized")):
            return labels, y_pred.astype(np.float32)
        return np.eye(side, dtype=np.float32)[labels], y_pred.astype(np.float32)
    if family in (grids.binary, grids.masks):
        return random.integers(0, 2, shape).astype(np.float32), y_pred.astype(np.float32)
    if family is grids.margin:
        return random.choice([-1.0, 1.0], shape).astype(np.float32), y_pred.astype(np.float32)
    return random.uniform(0.1, 2.0, shape).astype(np.float32), y_pred.astype(np.float32)
