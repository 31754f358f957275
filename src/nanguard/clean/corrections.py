"""What trees and smooth functions add to a Gaussian's conditional means, learnt from rows that it has not seen."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import gaussian as normal
from nanguard.clean.gaussian import Gaussian
from nanguard.clean.ranges import Range
from nanguard.errors import UsageError

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# A column with fewer numbers is left to the Gaussian.
_LEAST_ROWS = 40
# Of a wide table each column is predicted from those that are most correlated with it.
_MOST_FEATURES = 64
_NUM_FOLDS = 4
_NUM_LANDMARKS = 300
# Widths of the kernels as multiples of the spread of all features together, with the ridge of each.
_KERNELS = ((0.3, 0.1), (1.0, 0.1), (3.0, 0.1))
# Features enter a kernel within so many standard deviations: one that is far out would be like no other row at all.
_REACH = 4.0
# How many rows the error of all columns together weighs where the models of one column are blended.
_PRIOR_ROWS = 30.0
_BLOCK_BYTES = 1 << 23


@dataclasses.dataclass(frozen=True)
class Correction:
    """What is added to the Gaussian's conditional mean of one column, in its standard deviations.

    Args:
        features: Which columns it is made of, itself among them: there its conditional mean stands.
        boosters: A booster of each fold; their mean counts.
        kernels: The ridge regressions.
        weights: Of the boosters together, and of each kernel.
    """

    features: Places
    boosters: tuple[Any, ...]
    kernels: _Kernels
    weights: Floats

    def predict(self, standard: Floats) -> Floats:
        """The correction for rows without a gap, shape (rows, all columns), in standard deviations."""
        chosen = standard[:, self.features]
        sums = np.zeros(len(chosen))
        if self.weights[0] > 0:
            sums += self.weights[0] * np.mean([booster.predict(chosen) for booster in self.boosters], axis=0)
        if (self.weights[1:] > 0).any():
            sums += self.kernels.predict(chosen) @ self.weights[1:]
        return sums


@dataclasses.dataclass(frozen=True)
class _Kernels:
    """Ridge regressions with Gaussian kernels on landmarks, some rows that stand for all (Nystrom's method).

    Args:
        center, scale: Shape (features,): how features are standardized before they are held within reach.
        landmarks: Shape (landmarks, features), standardized.
        coefficients: Shape (kernels, landmarks).

    References:
        Rudi, Camoriano and Rosasco, *Less is more: Nystrom computational regularization*, NeurIPS 2015.
    """

    center: Floats
    scale: Floats
    landmarks: Floats
    coefficients: Floats

    @classmethod
    def of(
        cls, features: Floats, target: Floats, folds: Places, random: np.random.Generator
    ) -> tuple[_Kernels, Floats]:
        """Fits to all rows, and predicts each from the other folds, shape (rows, kernels)."""
        center, scale = normal.moments(features)
        standard = np.clip((features - center) / scale, -_REACH, _REACH)
        landmarks = standard[np.sort(random.permutation(len(standard))[:_NUM_LANDMARKS])]
        coefficients, held_out = [], []
        squares, between = _squared_distances(standard, landmarks), _squared_distances(landmarks, landmarks)
        for width, ridge in _KERNELS:
            rate = -0.5 / (width * features.shape[1])
            solution, predicted = _ridge_regression(
                np.exp(rate * squares), np.exp(rate * between), target, folds, ridge
            )
            coefficients.append(solution)
            held_out.append(predicted)
        return cls(center, scale, landmarks, np.array(coefficients)), np.array(held_out).T

    def predict(self, features: Floats) -> Floats:
        """Shape (rows, kernels)."""
        standard = np.clip((features - self.center) / self.scale, -_REACH, _REACH)
        predicted = np.empty((len(standard), len(_KERNELS)))
        step = max(1, _BLOCK_BYTES // (8 * len(self.landmarks)))
        for start in range(0, len(standard), step):
            squares = _squared_distances(standard[start : start + step], self.landmarks)
            for place, (width, _) in enumerate(_KERNELS):
                similar = np.exp(-0.5 / (width * standard.shape[1]) * squares)
                predicted[start : start + step, place] = similar @ self.coefficients[place]
        return predicted


def _ridge_regression(
    similar: Floats, between: Floats, target: Floats, folds: Places, ridge: float
) -> tuple[Floats, Floats]:
    """The coefficients of all rows, and each row's prediction by those of the other folds."""
    # A wide kernel makes landmarks look alike: without something on the diagonal their matrix has no inverse.
    penalty = ridge * between + 1e-6 * np.eye(len(between))
    grams = [similar[folds == fold].T @ similar[folds == fold] for fold in range(_NUM_FOLDS)]
    pulls = [similar[folds == fold].T @ target[folds == fold] for fold in range(_NUM_FOLDS)]
    gram, pull = np.sum(grams, 0), np.sum(pulls, 0)
    predicted = np.empty(len(target))
    for fold in range(_NUM_FOLDS):
        solution = np.linalg.solve(gram - grams[fold] + penalty, pull - pulls[fold])
        predicted[folds == fold] = similar[folds == fold] @ solution
    return np.linalg.solve(gram + penalty, pull), predicted


def _squared_distances(rows: Floats, others: Floats) -> Floats:
    squares = (rows**2).sum(1)[:, None] + (others**2).sum(1) - 2 * rows @ others.T
    return np.asarray(np.maximum(squares, 0.0, out=squares))


def _boosters(features: Floats, target: Floats, folds: Places, seed: int) -> tuple[tuple[Any, ...], Floats]:
    """A booster that was fitted without each fold, and what it predicts for that fold, shape (rows,)."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    boosters, held_out = [], np.empty(len(target))
    for fold in range(_NUM_FOLDS):
        # Few small trees: the mean over folds and the kernels do the rest. A hundred trees of 15 leaves take three
        # times as long, for errors that are smaller by a hundredth of theirs.
        booster = HistGradientBoostingRegressor(
            learning_rate=0.15,
            max_iter=40,
            max_leaf_nodes=8,
            min_samples_leaf=10,
            early_stopping=False,
            random_state=seed,
        )
        booster.fit(features[folds != fold], target[folds != fold])
        held_out[folds == fold] = booster.predict(features[folds == fold])
        boosters.append(booster)
    return tuple(boosters), held_out


@dataclasses.dataclass(frozen=True)
class _Errors:
    """Of one column: products of the models' predictions, among each other and with the residual, over its rows."""

    gram: Floats
    pull: Floats
    num_rows: int

    @classmethod
    def of(cls, predicted: Floats, residual: Floats) -> _Errors:
        # In units of the residual, so that columns can be added up.
        unit = max(float(residual @ residual), np.finfo(np.float64).tiny) / len(residual)
        return cls(predicted.T @ predicted / unit, predicted.T @ residual / unit, len(residual))


def require_sklearn() -> None:
    """Loads scikit-learn.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import sklearn.ensemble  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError("`impute='trees'` needs scikit-learn: pip install \"nanguard[data]\"") from None


def fit(standard: Floats, correlation: Floats, random: np.random.Generator) -> tuple[Correction | None, ...]:
    """The corrections of all columns, from rows in standard deviations."""
    folds = random.permutation(len(standard)) % _NUM_FOLDS
    limits = Range.of(standard)
    gaussians: list[Gaussian] | None = None
    corrections: list[Correction | None] = []
    errors: list[_Errors | None] = []
    for place, column in enumerate(standard.T):
        known = np.flatnonzero(~np.isnan(column))
        if len(known) < _LEAST_ROWS or np.ptp(column[known]) == 0:
            corrections.append(None)
            errors.append(None)
            continue
        if gaussians is None:
            gaussians = [normal.fit(standard[folds != fold]) for fold in range(_NUM_FOLDS)]
        filled = _filled_without(gaussians, standard[known], folds[known], place, limits)
        residual = column[known] - filled[:, place]
        features = np.argsort(-np.abs(correlation[place]), kind="stable")[:_MOST_FEATURES]
        boosters, boosted = _boosters(filled[:, features], residual, folds[known], int(random.integers(1 << 31)))
        kernels, smooth = _Kernels.of(filled[:, features], residual, folds[known], random)
        corrections.append(Correction(features, boosters, kernels, np.zeros(1 + len(_KERNELS))))
        errors.append(_Errors.of(np.column_stack([boosted, smooth]), residual))
    return tuple(
        None if correction is None else dataclasses.replace(correction, weights=weights)
        for correction, weights in zip(corrections, _blends(errors), strict=True)
    )


def _filled_without(gaussians: list[Gaussian], rows: Floats, folds: Places, place: int, limits: Range) -> Floats:
    """Rows filled by the Gaussians of the other folds, as if one column were missing in all of them."""
    rows = rows.copy()
    rows[:, place] = np.nan
    filled = np.empty_like(rows)
    for fold, gaussian in enumerate(gaussians):
        filled[folds == fold] = gaussian.fill(rows[folds == fold])
    # A column that hardly varies in one fold may make another's conditional means as large as you like.
    return limits.put(rows, filled)


def _blends(errors: list[_Errors | None]) -> list[Floats]:
    """The weights of each column's models: least squares without negative weights.

    A column of few rows tells little of which model is the best for it, all columns together tell more.
    """
    known = [error for error in errors if error is not None]
    num_rows = sum(error.num_rows for error in known)
    blends = []
    for error in errors:
        if error is None:
            blends.append(np.zeros(0))
            continue
        share = _PRIOR_ROWS / num_rows
        gram = error.gram + share * np.sum([each.gram for each in known], 0)
        pull = error.pull + share * np.sum([each.pull for each in known], 0)
        blends.append(_nonnegative(gram, pull))
    return blends


def _nonnegative(gram: Floats, pull: Floats) -> Floats:
    """Minimizes `w' gram w - 2 w' pull` for weights that are not negative, and scales them to sum to at most 1."""
    from scipy.optimize import nnls

    size = len(gram)
    root = np.linalg.cholesky(gram + (1e-9 * np.trace(gram) + np.finfo(np.float64).tiny) * np.eye(size))
    weights, _ = nnls(root.T, np.linalg.solve(root, pull))
    return np.asarray(weights / max(1.0, weights.sum()))
