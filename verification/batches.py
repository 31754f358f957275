"""Grids for losses that Keras lacks: likelihoods, regions, policies, and batches whose samples are compared."""

from __future__ import annotations

import numpy as np

from nanguard.intervals import float_format
from verification.grids import RANDOM, VALUES, Family, Grid, binary, margin, masks
from verification.numbers import Array, Floats, as_float64, numpy_dtype
from verification.sweep import Mask

ROWS = 4000
BATCHES = 400
SAMPLES = 4  # in a batch


def free(seed: int, num_targets: int, num_predictions: int) -> Family:
    """Makes a family of targets and predictions of any size."""

    def family(dtype: str) -> Grid:
        y_true, y_pred = _any(dtype, seed, ROWS, num_targets), _any(dtype, seed + 1, ROWS, num_predictions)
        return Grid(y_true, y_pred, _none(ROWS), _none(ROWS))

    return family


def log_rates(dtype: str) -> Grid:
    """Counts against the logarithms of rates."""
    y_true, y_pred = _counts(dtype, 21, 1), _any(dtype, 22, ROWS, 1)
    y, x = as_float64(y_true)[:, 0], as_float64(y_pred)[:, 0]
    miss = np.abs(np.exp(np.minimum(x, 80)) - y)
    return Grid(y_true, y_pred, (np.abs(x) < 1e4) & (miss > 0.1 * np.maximum(y, 1)), np.abs(x) < 1e4)


def gaussians(dtype: str) -> Grid:
    """Targets against means and log variances."""
    grid = free(23, 1, 2)(dtype)
    y, (mean, log_variance) = as_float64(grid.y_true)[:, 0], as_float64(grid.y_pred).T
    # The floor of the variance is at a logarithm of -13.8.
    plain = (np.abs(log_variance) < 10) & (np.abs(y) < 1e3) & (np.abs(mean) < 1e3)
    return Grid(grid.y_true, grid.y_pred, plain & (np.abs(y - mean) > 0.1), plain)


def normals(dtype: str) -> Grid:
    """Normal distributions against others."""
    grid = free(25, 2, 2)(dtype)
    (m0, v0), (m, v) = as_float64(grid.y_true).T, as_float64(grid.y_pred).T
    plain = np.asarray(np.all([np.abs(x) < 10 for x in (m0, v0, m, v)], axis=0))
    return Grid(grid.y_true, grid.y_pred, plain & (np.abs(m - m0) > 0.1), plain)


def fractions(dtype: str) -> Grid:
    """Fractions against the logarithms of a Beta distribution's two parameters."""
    y = RANDOM(27).choice([0.0, 1e-7, 0.01, 0.3, 0.5, 0.9, 1.0], (ROWS, 1)).astype(numpy_dtype(dtype))
    y_pred = _any(dtype, 28, ROWS, 2)
    inside = (as_float64(y)[:, 0] > 1e-3) & (as_float64(y)[:, 0] < 0.999)
    return Grid(y, y_pred, _none(ROWS), inside & (np.abs(as_float64(y_pred)) < 10).all(axis=1))


def dispersed_counts(dtype: str) -> Grid:
    """Counts against the logarithms of a mean and a shape."""
    y_pred = _any(dtype, 29, ROWS, 2)
    return Grid(_counts(dtype, 30, 1), y_pred, _none(ROWS), (np.abs(as_float64(y_pred)) < 10).all(axis=1))


def distances(dtype: str) -> Grid:
    """Pairs of one kind and of two kinds, against their distances."""
    grid = binary(dtype)
    y_true = np.round(as_float64(grid.y_true)).astype(grid.y_true.dtype)
    y_pred = np.abs(_any(dtype, 31, len(y_true), 1))
    y, d = as_float64(y_true)[:, 0], as_float64(y_pred)[:, 0]
    wrong = np.where(y == 1, (d > 0.1) & (d < 1e4), d < 0.9)
    return Grid(y_true, y_pred, wrong, np.ones(len(y), bool))


def critics(dtype: str) -> Grid:
    """What should score high or low, against scores."""
    grid = margin(dtype)
    small = np.abs(as_float64(grid.y_pred)[:, 0]) <= 1e4
    return Grid(grid.y_true, grid.y_pred, small, small)


def images(dtype: str) -> Grid:
    """Small images of one class."""
    grid = masks(dtype)
    return Grid(grid.y_true[..., None], grid.y_pred[..., None], grid.is_wrong, grid.in_domain)


def cosines(dtype: str) -> Grid:
    """Classes against cosines, ends and numbers beyond among them."""
    random = RANDOM(33)
    y_pred = random.choice([-1.0, -0.5, 0.0, 0.3, 1.0, 1.001, -2.0, 1e4], (ROWS, 3))
    y_pred[ROWS // 2 :] = random.uniform(-1, 1, (ROWS - ROWS // 2, 3))
    labels = random.integers(0, 3, ROWS)
    return Grid(labels, y_pred.astype(numpy_dtype(dtype)), _none(ROWS), _none(ROWS))


mixtures = free(35, 1, 6)
policies = free(37, 2, 1)


def latents(dtype: str) -> Grid:
    """Images of two pixels against logits, and the means and log variances of one latent variable."""
    y_true = RANDOM(39).choice([0.0, 0.3, 1.0], (ROWS, 2)).astype(numpy_dtype(dtype))
    return Grid(y_true, _any(dtype, 40, ROWS, 4), _none(ROWS), _none(ROWS))


def labelled_embeddings(dtype: str) -> Grid:
    """Batches of labels against embeddings, equal and zero ones among them."""
    labels = RANDOM(41).integers(0, 3, (BATCHES, SAMPLES))
    return Grid(labels, _embeddings(dtype, 42), _none(BATCHES), _none(BATCHES))


def two_views(dtype: str) -> Grid:
    """Batches of embeddings against other embeddings of the same samples."""
    return Grid(_embeddings(dtype, 43), _embeddings(dtype, 44), _none(BATCHES), _none(BATCHES))


def survivals(dtype: str) -> Grid:
    """Batches of times, tied ones among them, and events, against log hazards."""
    random = RANDOM(45)
    times = random.choice([0.0, 1.0, 1.0, 2.0, 1e4], (BATCHES, SAMPLES))
    events = random.integers(0, 2, (BATCHES, SAMPLES))
    y_true = np.stack([times, events], axis=-1).astype(numpy_dtype(dtype))
    return Grid(y_true, _any(dtype, 46, BATCHES * SAMPLES, 1).reshape(BATCHES, SAMPLES), _none(BATCHES), _none(BATCHES))


def _embeddings(dtype: str, seed: int) -> Array:
    found = _any(dtype, seed, BATCHES * SAMPLES, 2).reshape(BATCHES, SAMPLES, 2)
    found[::5, 1] = found[::5, 0]
    found[::7, 2] = 0
    return found


def _any(dtype: str, seed: int, number: int, width: int) -> Array:
    """Gives rows of numbers of both signs: of any size, everyday ones, and both."""
    random = RANDOM(seed)
    limit = float_format(dtype).max
    extreme = random.choice(np.minimum(VALUES, limit), (number, width))
    everyday: Floats = random.lognormal(0, 1.5, (number, width))
    chosen = random.random((number, width)) < random.choice([0.0, 0.5, 1.0], (number, 1))
    signs = random.choice([-1.0, 1.0], (number, width))
    return np.asarray((signs * np.where(chosen, extreme, everyday)).astype(numpy_dtype(dtype)))


def _counts(dtype: str, seed: int, width: int) -> Array:
    numbers = [0.0, 1.0, 2.0, 5.0, 100.0, 1e4]
    return np.asarray(RANDOM(seed).choice(numbers, (ROWS, width)).astype(numpy_dtype(dtype)))


def _none(number: int) -> Mask:
    return np.zeros(number, bool)
