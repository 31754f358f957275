"""What ops on rows should give, in float64, and the numbers in whose last place to count where terms cancel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nanguard.intervals import float_format
from verification import divergence_truth
from verification.numbers import Array, Floats, as_float64, ulps
from verification.sweep import Mask

Kernel = Callable[..., tuple[Floats, Floats]]


def row_errors(name: str, value: Array, operands: Sequence[Array], dtype: str) -> Floats | None:
    """Gives the largest error in each row in ulp, NaN where none can be told, None if the op has no formula here.

    float64 has none: it would need a wider float.
    """
    kernel = KERNELS.get(name)
    if kernel is None or dtype == "float64":
        return None
    with np.errstate(all="ignore"):
        right, scale = kernel(*[as_float64(operand) for operand in operands])
        errors = ulps(value, right, dtype, np.abs(scale))
    limits = float_format(dtype)
    # What is so small that a kernel flushes it, or squares of it.
    errors[~(np.abs(scale) <= limits.max) | (np.abs(scale) < limits.smallest_normal / limits.eps)] = np.nan
    rows = errors.reshape(len(errors), -1)
    is_known = ~np.isnan(rows)
    return np.where(is_known.any(axis=1), np.where(is_known, rows, 0).max(axis=1), np.nan)


def ordinary_rows(operands: Sequence[Array], dtype: str) -> Mask:
    """Gives the rows whose numbers are 0, or so far from the ends of the range that sums of squares are inside."""
    limits = float_format(dtype)
    low, high = limits.smallest_normal ** (3 / 8), limits.max ** (3 / 8)
    found = np.ones(len(operands[0]), bool)
    for operand in operands:
        size = np.abs(as_float64(operand)).reshape(len(operand), -1)
        found &= ((size == 0) | ((size >= low) & (size <= high))).all(axis=1)
    return found


def _softmax(x: Floats) -> tuple[Floats, Floats]:
    shifted = x - x.max(axis=-1, keepdims=True)
    value = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
    return value, value * (1 + np.abs(shifted))  # the difference is rounded before it is an exponent


def _log_softmax(x: Floats) -> tuple[Floats, Floats]:
    shifted = x - x.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted - log_sum, np.abs(shifted) + np.maximum(log_sum, 1)


def _logsumexp(x: Floats) -> tuple[Floats, Floats]:
    largest = x.max(axis=-1)
    log_sum = np.log(np.exp(x - largest[..., None]).sum(axis=-1))
    return largest + log_sum, np.maximum(np.abs(largest), 1)


def _mean(x: Floats) -> tuple[Floats, Floats]:
    return x.mean(axis=-1), np.abs(x).mean(axis=-1)


def _variance(x: Floats) -> tuple[Floats, Floats]:
    value = x.var(axis=-1)
    return value, value + np.sqrt(value) * np.abs(x).mean(axis=-1)  # the mean is rounded before it is taken off


def _std(x: Floats) -> tuple[Floats, Floats]:
    value = x.std(axis=-1)
    return value, value + np.abs(x).mean(axis=-1)


def _norm(x: Floats) -> tuple[Floats, Floats]:
    value = np.sqrt(np.square(x).sum(axis=-1))
    return value, value


def _l2_normalize(x: Floats) -> tuple[Floats, Floats]:
    size = _size(x)[..., None]
    return x / size, np.where(np.isnan(size), np.nan, x / size)


def _cosine_similarity(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    sizes = _size(x) * _size(y)
    return (x * y).sum(axis=-1) / sizes, np.abs(x * y).sum(axis=-1) / sizes


def _size(x: Floats) -> Floats:
    """Gives the norm, NaN where its square is below the epsilon of 1e-12 that the plain op has too."""
    square = np.square(x).sum(axis=-1)
    return np.where(square > 1.01e-12, np.sqrt(square), np.nan)


def _cumprod(x: Floats) -> tuple[Floats, Floats]:
    value = np.cumprod(x, axis=-1)
    return value, value


def _pairwise_distances(x: Floats) -> tuple[Floats, Floats]:
    centered = x - x.mean(axis=-2, keepdims=True)
    squares = np.square(centered).sum(axis=-1)
    value = np.sqrt(np.square(x[..., :, None, :] - x[..., None, :, :]).sum(axis=-1))
    # The square of a distance is rounded as the squares are that it is the difference of.
    scale = (squares[..., :, None] + squares[..., None, :]) / np.where(value > 0, value, np.nan)
    return value, np.maximum(scale, value)


KERNELS: dict[str, Kernel] = {
    "cosine_similarity": _cosine_similarity,
    "cumprod": _cumprod,
    "entropy": divergence_truth.entropy,
    "kl_bernoulli": divergence_truth.bernoulli,
    "kl_beta": divergence_truth.beta,
    "kl_categorical": divergence_truth.categorical,
    "kl_dirichlet": divergence_truth.dirichlet,
    "kl_exponential": divergence_truth.exponential,
    "kl_gamma": divergence_truth.gamma,
    "kl_laplace": divergence_truth.laplace,
    "kl_normal": divergence_truth.normal,
    "kl_poisson": divergence_truth.poisson,
    "l2_normalize": _l2_normalize,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "magnitude": _norm,
    "mean": _mean,
    "norm": _norm,
    "pairwise_distances": _pairwise_distances,
    "softmax": _softmax,
    "std": _std,
    "variance": _variance,
}
