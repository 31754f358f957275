"""The steps of a recipe in TensorFlow: what is missing, what is out of bounds, and the conditional means of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# What float32 does not hold to its last digit is looked at as it came.
_WIDE = (tf.float64, tf.int32, tf.int64, tf.uint32, tf.uint64)
# In units of the column. A cell further out predicts nothing, and its square would overflow.
_FARTHEST = 1e12
# Beyond this a number of 10 bits' precision, as TF32 has, is split off.
_SPLIT = 2.0**13 + 1.0


@dataclasses.dataclass(frozen=True)
class Normal:
    """A multivariate normal as the layer holds it, float64.

    Attributes:
        mean: Shape (columns,).
        unit: Shape (columns,): the standard deviation of each column given all others. Measured in it, the precision
            matrix has ones on its diagonal, which is what Jacobi's preconditioner is for.
        root: Shape (columns, columns): a matrix R with R'R the precision matrix in these units.
        factor: Shape (columns, columns): its inverse F, so that FF' is the covariance.
    """

    mean: tf.Tensor
    unit: tf.Tensor
    root: tf.Tensor
    factor: tf.Tensor

    @staticmethod
    def parts(scale: Floats, correlation: Floats) -> dict[str, Floats]:
        """Unit, root and factor of a distribution with these standard deviations and correlations."""
        factor = np.linalg.cholesky(correlation)
        root = np.linalg.inv(factor)
        lengths = np.sqrt((root**2).sum(0))
        return {"unit": scale / lengths, "root": root / lengths, "factor": lengths[:, None] * factor}


@dataclasses.dataclass(frozen=True)
class Steps:
    """What is done to rows. Arrays have the shape (columns,).

    Attributes:
        low, high: Bounds, float64.
        fill: What a missing cell gets if nothing better is known, float64; None leaves it.
        sentinels: Shape (numbers, columns): what stands for a missing cell, NaN where a column has fewer than others.
        action: What is done beyond the bounds: "clip", "impute" or None.
        clips_infinite: Whether an infinity is a number beyond every bound.
        normal: What conditional means are made of, or None.
        dtype: What is computed and given in.
    """

    low: tf.Tensor
    high: tf.Tensor
    fill: tf.Tensor | None
    sentinels: np.ndarray[Any, Any]
    action: str | None
    clips_infinite: bool
    normal: Normal | None
    dtype: tf.DType

    def stand_in(self, dtype: tf.DType) -> tf.Tensor:
        """What a missing cell holds while the others are computed."""
        number = self.fill if self.normal is None else self.normal.mean
        return tf.zeros([], dtype) if number is None else tf.cast(number, dtype)


def widest(dtypes: Sequence[tf.DType]) -> tf.DType:
    """What numbers of some dtypes are looked at in."""
    return tf.float64 if any(dtype in _WIDE for dtype in dtypes) else tf.float32


def clean(x: tf.Tensor, steps: Steps) -> tuple[tf.Tensor, tf.Tensor]:
    """Cleans rows.

    Args:
        x: Real numbers, shape (..., columns).
        steps: What is done.

    Returns:
        The rows in the dtype of `steps`, and which of their cells were missing or taken for it.
    """
    x = tf.cast(x, widest([x.dtype, steps.dtype]))
    low, high = tf.cast(steps.low, x.dtype), tf.cast(steps.high, x.dtype)
    is_missing, is_infinite = tf.math.is_nan(x), _is_beyond(x, x.dtype.max)
    if not steps.clips_infinite:
        is_missing |= is_infinite
    for numbers in steps.sentinels:
        is_missing |= tf.equal(x, tf.constant(numbers, x.dtype))
    # Each cell is replaced before anything is computed of it: the gradient of a NaN times 0 is NaN.
    x = tf.where(is_missing, steps.stand_in(x.dtype), x)
    if steps.action == "impute":
        is_outlier = (x < low) | (x > high)
        is_missing |= is_outlier
        x = tf.where(is_outlier, steps.stand_in(x.dtype), x)
    elif steps.action == "clip":
        x = tf.clip_by_value(x, low, high)
    elif steps.clips_infinite:
        x = tf.where(is_infinite, tf.clip_by_value(x, low, high), x)
    if steps.clips_infinite or x.dtype.size > steps.dtype.size:
        # Infinite is also what has no bound, and what the dtype that is given cannot hold.
        is_missing |= _is_beyond(x, np.nextafter(steps.dtype.max, 0, dtype=steps.dtype.as_numpy_dtype))
        x = tf.where(is_missing, steps.stand_in(x.dtype), x)
    return _filled(x, is_missing, steps), is_missing


def _is_beyond(x: tf.Tensor, limit: Any) -> tf.Tensor:
    # Not `~(abs(x) <= limit)`, which holds for NaN too: of it TensorFlow's graph optimizer makes this, which does not.
    return tf.abs(x) > tf.cast(limit, x.dtype)


def _filled(x: tf.Tensor, is_missing: tf.Tensor, steps: Steps) -> tf.Tensor:
    known = tf.cast(x, steps.dtype)
    if steps.fill is None:
        return tf.where(is_missing, tf.constant(np.nan, steps.dtype), known)
    if steps.normal is None:
        return tf.where(is_missing, tf.cast(steps.fill, steps.dtype), known)
    expected = _expected(x, is_missing, steps.normal, steps.dtype)
    low, high = tf.cast(steps.low, steps.dtype), tf.cast(steps.high, steps.dtype)
    return tf.where(is_missing, tf.clip_by_value(expected, low, high), known)


def _expected(x: tf.Tensor, is_missing: tf.Tensor, normal: Normal, dtype: tf.DType) -> tf.Tensor:
    # The mean in two parts: at 1e8 a float32 alone is up to 4 off.
    high, low = _parts(normal.mean, x.dtype)
    around = tf.cast(((x - high) - low) / tf.cast(normal.unit, x.dtype), dtype)
    rows = tf.reshape(tf.clip_by_value(around, -_FARTHEST, _FARTHEST), [-1, x.shape[-1]])
    rows += conditional_mean(rows, tf.reshape(is_missing, tf.shape(rows)), normal)
    high, low = _parts(normal.mean, dtype)
    return high + (low + tf.cast(normal.unit, dtype) * tf.reshape(rows, tf.shape(x)))


def _parts(x: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    """A float64 tensor as the sum of two of a dtype."""
    high = tf.cast(x, dtype)
    return high, tf.cast(x - tf.cast(high, x.dtype), dtype)


def conditional_mean(rows: tf.Tensor, is_missing: tf.Tensor, normal: Normal) -> tf.Tensor:
    """The conditional means of missing cells given the other cells of their rows.

    Of a row z it is the y, zero in the cells that are there, that makes `|R (z + y)|` least, where `R'R` is the
    precision matrix. It is found by conjugate gradients for least squares, for all rows at once. On the normal
    equations, with the precision matrix itself, a step takes one matrix product less; but if two columns repeat each
    other and both are missing, they come out a fifth of a standard deviation off in float32, and so less than 1e-4.

    Args:
        rows: Shape (rows, columns), float32 or float64: distances from the mean in units of `normal.unit`, with any
            number in the missing cells.
        is_missing: Shape (rows, columns), bool.
        normal: The distribution.

    Returns:
        Shape (rows, columns): what is to be added to the missing cells, 0 or what is left of rounding elsewhere. The
        gradient is that of the exact solution.

    References:
        Björck, *Numerical Methods for Least Squares Problems*, SIAM 1996, §7.4.
    """
    mask = tf.cast(is_missing, rows.dtype)
    root, factor = tf.cast(normal.root, rows.dtype), tf.cast(normal.factor, rows.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def solved(rows: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # y = -inv(P_mm) P_m z, so the gradient is -P u with u = inv(P_mm) g: the same system, of the rows -C g.
            pulled = _product(_product(mask * upstream, factor), factor, transpose=True)
            solution = _least_squares(-pulled, mask, root, factor)
            return -_product(_product(solution, root, transpose=True), root)

        return _least_squares(rows, mask, root, factor), gradient

    return solved(rows)


def _least_squares(rows: tf.Tensor, mask: tf.Tensor, root: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    numbers = np.finfo(rows.dtype.as_numpy_dtype)
    tiny, epsilon = float(numbers.tiny), float(numbers.eps)
    transposed = tf.transpose(root)
    misfit = -_product(rows, transposed)
    slope = mask * _product(misfit, root)
    misfit_square = _sum(misfit * misfit)
    least = epsilon**3 * misfit_square

    def goes_on(misfit: Any, way: Any, square: Any, rounding: Any) -> tf.Tensor:
        return tf.reduce_any(square > rounding)

    def step(misfit: Any, way: Any, square: Any, rounding: Any) -> tuple[tf.Tensor, ...]:
        change = _product(way, transposed)
        fall = _sum(misfit * change)
        # The exact minimum along the way, not the usual |slope|^2 / |change|^2: rounding can then never lead uphill. A
        # row that is done stays as it is, so that no row depends on the others.
        length = tf.where(square > rounding, fall / tf.maximum(_sum(change * change), tiny), 0.0)
        misfit -= length * change
        slope = mask * _product(misfit, root)
        new_square = _sum(slope * slope)
        way = slope + new_square / tf.maximum(square, tiny) * way
        # The square of what remains of the misfit, as the rounding of the slope goes by it.
        return misfit, way, new_square, tf.maximum(rounding - epsilon**2 * length * fall, least)

    # In exact arithmetic it takes as many steps as a row has missing cells.
    start = (misfit, slope, _sum(slope * slope), tf.maximum(epsilon**2 * misfit_square, least))
    misfit = tf.while_loop(goes_on, step, start, maximum_iterations=2 * rows.shape[-1] + 16)[0]
    # The misfit says what was added: to keep account of it on the way would take a tenth of the time.
    return -_product(misfit, tf.transpose(factor)) - rows


def _sum(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(x, axis=-1, keepdims=True)


def _product(x: tf.Tensor, matrix: tf.Tensor, *, transpose: bool = False) -> tf.Tensor:
    """A matrix product to the last digit of float32, on a GPU that would take ten bits of each number too."""
    if x.dtype == tf.float64 or not _has_tensor_float():
        return tf.matmul(x, matrix, transpose_b=transpose)
    x_high, matrix_high = _leading(x), _leading(matrix)
    parts = ((x - x_high, matrix_high), (x_high, matrix - matrix_high), (x_high, matrix_high))
    return tf.add_n([tf.matmul(one, other, transpose_b=transpose) for one, other in parts])


def _leading(x: tf.Tensor) -> tf.Tensor:
    """The leading bits of each number (Dekker, *A floating-point technique for extending the available precision*)."""
    far = x * _SPLIT
    return far - (far - x)


def _has_tensor_float() -> bool:
    return bool(tf.config.experimental.tensor_float_32_execution_enabled() and tf.config.list_physical_devices("GPU"))
