"""Grids of labels and predictions, and which of the predictions are wrong."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nanguard.intervals import float_format
from verification.numbers import Floats, as_float64, numpy_dtype
from verification.sweep import Mask

CLASSES = 3
RANDOM = np.random.default_rng

PROBABILITIES = (
    0.0,
    1e-37,
    1e-30,
    1e-20,
    1e-10,
    1e-7,
    1e-5,
    1e-3,
    0.1,
    0.25,
    0.5,
    0.75,
    0.9,
    0.99,
    0.999,
    0.99999,
    1.0,
)
NOT_PROBABILITIES = (-math.inf, -1.0, -1e-7, 1.0001, 2.0, math.inf)  # infinite: the end of the dtype's range
LOGITS = (
    0.0,
    1e-30,
    1e-3,
    0.5,
    1.0,
    3.0,
    5.0,
    10.0,
    15.0,
    16.0,
    20.0,
    50.0,
    88.0,
    89.0,
    104.0,
    1e3,
    1e4,
    1e9,
    math.inf,
)
VALUES = (
    0.0,
    1e-37,
    1e-20,
    1e-10,
    1e-7,
    1e-3,
    0.1,
    0.5,
    1.0,
    1.001,
    2.0,
    10.0,
    100.0,
    1e3,
    6e4,
    1e10,
    1e19,
    1e30,
    math.inf,
)


@dataclass(frozen=True)
class Grid:
    """Labels and predictions, row by row.

    Args:
        y_true: Labels.
        y_pred: Predictions.
        is_wrong: Rows whose loss would fall if the prediction moved towards the label.
        in_domain: Rows whose prediction is of the kind that the loss is made for, where its value can be judged.
    """

    y_true: npt.NDArray[Any]
    y_pred: npt.NDArray[Any]
    is_wrong: Mask
    in_domain: Mask


Family = Callable[[str], Grid]


def binary(dtype: str) -> Grid:
    """0 and 1 and soft labels, against probabilities that may be 0, 1, or none at all."""
    p = _numbers(dtype, PROBABILITIES, NOT_PROBABILITIES, RANDOM(1).random(300))
    y_true, y_pred = _columns([0.0, 1.0, 0.1, 0.5, 0.9], p, dtype)
    y, q = as_float64(y_true)[:, 0], as_float64(y_pred)[:, 0]
    in_domain = (q >= 0) & (q <= 1)
    return Grid(y_true, y_pred, _is_hard(y) & in_domain & (np.abs(y - q) >= 0.5), in_domain)


def binary_logits(dtype: str) -> Grid:
    """0 and 1 and soft labels, against logits of any size."""
    z = _both_signs(_numbers(dtype, LOGITS, (), RANDOM(2).normal(0, 8, 300)))
    y_true, y_pred = _columns([0.0, 1.0, 0.1, 0.5, 0.9], z, dtype)
    y, q = as_float64(y_true)[:, 0], as_float64(y_pred)[:, 0]
    return Grid(y_true, y_pred, _is_hard(y) & ((2 * y - 1) * q < 0), _all(y))


def margin(dtype: str) -> Grid:
    """Labels of -1 and 1 against scores of any size."""
    z = _both_signs(_numbers(dtype, VALUES, (), RANDOM(3).normal(0, 2, 300)))
    y_true, y_pred = _columns([-1.0, 1.0], z, dtype)
    product = (as_float64(y_true) * as_float64(y_pred))[:, 0]
    return Grid(y_true, y_pred, product < 0.9, _all(product))


def categorical(dtype: str) -> Grid:
    """Classes against distributions, saturated and empty ones among them, and against rows that are none."""
    random = RANDOM(4)
    edges = [[p, (1 - p) / 2, (1 - p) / 2] for p in PROBABILITIES] + [[p, 1 - p, 0.0] for p in PROBABILITIES]
    turned = [row[k:] + row[:k] for row in edges for k in range(CLASSES)]
    others = [[0.0] * 3, [1.0] * 3, [2.0, 0.0, 0.0], [-1.0, 1.0, 1.0], [math.inf] * 3, [-math.inf, 0.0, math.inf]]
    p = _numbers(dtype, *turned, *others, *random.dirichlet([0.5] * CLASSES, 200)).reshape(-1, CLASSES)
    y_true, y_pred = _rows(_one_hot(), p, dtype)
    y, q = as_float64(y_true), as_float64(y_pred)
    in_domain = (q >= 0).all(axis=1) & (np.abs(q.sum(axis=1) - 1) < 2 * float_format(dtype).eps)
    return Grid(y_true, y_pred, in_domain & ((y * q).sum(axis=1) < 0.5), in_domain)


def categorical_logits(dtype: str) -> Grid:
    """Classes against logits of any size."""
    few = (0.0, 1.0, -1.0, 10.0, -16.0, 20.0, -88.0, 104.0, 1e4, -1e9, math.inf, -math.inf)
    rows = [*itertools.product(few, repeat=CLASSES), *RANDOM(5).normal(0, 8, (300, CLASSES))]
    z = _numbers(dtype, *rows).reshape(-1, CLASSES)
    y_true, y_pred = _rows(_one_hot(), z, dtype)
    y, q = as_float64(y_true), as_float64(y_pred)
    return Grid(y_true, y_pred, (y * q).sum(axis=1) < q.max(axis=1) - 0.1, _all(q[:, 0]))


def sparse(family: Family) -> Family:
    """Makes a family of one-hot labels one of class numbers."""

    def numbered(dtype: str) -> Grid:
        grid = family(dtype)
        return Grid(np.argmax(grid.y_true, axis=1).astype(np.int64), grid.y_pred, grid.is_wrong, grid.in_domain)

    return numbered


def scores(dtype: str) -> Grid:
    """Classes against scores of any size, of which that of the class should be the largest by 1."""
    grid = categorical_logits(dtype)
    y, q = as_float64(grid.y_true), as_float64(grid.y_pred)
    best_other = np.where(y > 0, -np.inf, q).max(axis=1)
    return Grid(grid.y_true, grid.y_pred, (y * q).sum(axis=1) < best_other + 0.9, grid.in_domain)


def distributions(dtype: str) -> Grid:
    """Distributions, hard and soft, against distributions."""
    grid = categorical(dtype)
    soft = RANDOM(6).dirichlet([0.7] * CLASSES, len(grid.y_pred)).astype(numpy_dtype(dtype))
    y_true = np.concatenate([grid.y_true, soft])
    y_pred = np.concatenate([grid.y_pred, grid.y_pred])
    in_domain = np.concatenate([grid.in_domain, grid.in_domain])
    y, q = as_float64(y_true), as_float64(y_pred)
    return Grid(y_true, y_pred, in_domain & ((y > 0.2) & (q < y / 2)).any(axis=1), in_domain)


def regression(dtype: str) -> Grid:
    """Targets of any size against predictions of any size."""
    return _regression(dtype, negative_targets=True)


def counts(dtype: str) -> Grid:
    """Targets that are not negative, such as counts and prices, against predictions of any sign."""
    return _regression(dtype, negative_targets=False)


def vectors(dtype: str) -> Grid:
    """Directions against directions, zero vectors among them."""
    random = RANDOM(7)
    few = (0.0, 1.0, -1.0, 1e-20, -1e-7, 1e10, math.inf)
    rows = [*itertools.product(few, repeat=CLASSES), *random.normal(size=(100, CLASSES))]
    x = _numbers(dtype, *rows).reshape(-1, CLASSES)
    targets = x[random.permutation(len(x))[:12]]
    y_true, y_pred = _rows(targets, x, dtype)
    y, q = as_float64(y_true), as_float64(y_pred)
    sizes = np.linalg.norm(y, axis=1), np.linalg.norm(q, axis=1)
    with np.errstate(all="ignore"):
        cosine = (y * q).sum(axis=1) / (sizes[0] * sizes[1])
    # Where the two are opposite the gradient of a cosine is 0 by rights; where a prediction is huge it is tiny.
    moderate = (sizes[0] > 1e-3) & (sizes[0] < 1e3) & (sizes[1] > 1e-3) & (sizes[1] < 1e3)
    return Grid(y_true, y_pred, moderate & (np.abs(cosine) < 0.9), (sizes[0] > 0) & (sizes[1] > 0))


def masks(dtype: str) -> Grid:
    """Small images of 0 and 1, empty and full ones among them, against probabilities."""
    random = RANDOM(8)
    y = np.array([*itertools.product((0.0, 1.0), repeat=4)])
    few = (0.0, 1e-7, 0.5, 1.0)
    p = np.array([*itertools.product(few, repeat=4), *random.random((50, 4)), [2.0] * 4, [-1.0] * 4, [math.inf] * 4])
    y_true, y_pred = _rows(y, _numbers(dtype, *p).reshape(-1, 4), dtype)
    t, q = as_float64(y_true), as_float64(y_pred)
    in_domain = (q >= 0).all(axis=1) & (q <= 1).all(axis=1)
    # Of an empty image no prediction but an empty one is right, and the overlap is 0 with all others alike.
    wrong = in_domain & (t.sum(axis=1) > 0) & (np.abs(t - q) >= 0.5).any(axis=1)
    return Grid(y_true, y_pred, wrong, in_domain & ((t + q).sum(axis=1) > 0))


def alignments(dtype: str) -> Grid:
    """Labels of CTC against logits of four frames, targets that need more frames among them."""
    random = RANDOM(9)
    labels = np.array([[1, 0, 0], [1, 2, 0], [1, 1, 0], [1, 2, 1], [1, 1, 1], [2, 2, 2], [0, 0, 0]])
    sizes = np.array([0.0, 1.0, 10.0, 104.0, 1e4, math.inf])
    z = random.normal(size=(120, 4, CLASSES)) * 1.0
    z *= np.clip(random.choice(sizes, (120, 1, 1)), 0, float_format(dtype).max / 8)
    y_true = np.repeat(labels, len(z), axis=0)
    y_pred = np.tile(z, (len(labels), 1, 1)).astype(numpy_dtype(dtype))
    return Grid(y_true, y_pred, np.zeros(len(y_true), bool), np.zeros(len(y_true), bool))


def _regression(dtype: str, *, negative_targets: bool) -> Grid:
    values = _numbers(dtype, VALUES, (), RANDOM(10).lognormal(0, 2, 40))
    targets = _both_signs(values) if negative_targets else values
    predictions = _both_signs(_numbers(dtype, VALUES, (), RANDOM(11).lognormal(0, 2, 40)))
    y_true, y_pred = _columns(targets.tolist(), predictions, dtype)
    y, q = as_float64(y_true)[:, 0], as_float64(y_pred)[:, 0]
    size = np.maximum(np.abs(y), np.abs(q))
    # Not the ends of the range: at 1e30 the slope of a logarithm is 0 in float16 by rights.
    is_wrong = (size >= 1e-3) & (size <= 1e3) & (np.abs(y - q) > 0.1 * size)
    in_domain = _all(y) if negative_targets else q > 0
    if not negative_targets:
        is_wrong &= (y >= 1e-3) | (q > 0)
    return Grid(y_true, y_pred, is_wrong, in_domain)


def _numbers(dtype: str, *parts: Sequence[float] | Floats) -> npt.NDArray[Any]:
    """Gives numbers of a dtype, infinity standing for the end of its range, and what overflows cut to it."""
    limit = float_format(dtype).max
    flat = np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])
    return np.clip(flat, -limit, limit).astype(numpy_dtype(dtype))


def _both_signs(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([x, -x])


def _columns(targets: Sequence[float], predictions: npt.NDArray[Any], dtype: str) -> tuple[Any, Any]:
    return _rows(np.asarray(targets, np.float64)[:, None], predictions[:, None], dtype)


def _rows(targets: npt.NDArray[Any], predictions: npt.NDArray[Any], dtype: str) -> tuple[Any, Any]:
    """Gives every target with every prediction."""
    y_true = np.repeat(targets, len(predictions), axis=0).astype(numpy_dtype(dtype))
    return y_true, np.tile(predictions, (len(targets), 1))


def _one_hot() -> Floats:
    return np.eye(CLASSES)


def _is_hard(y: Floats) -> Mask:
    return (y == 0) | (y == 1)


def _all(x: npt.NDArray[Any]) -> Mask:
    return np.ones(len(x), bool)
