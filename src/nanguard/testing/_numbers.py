"""Floats of a dtype as NumPy holds them: rounding into a range, the neighbours of a number, and how it is written."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from nanguard.intervals import float_format


def numpy_dtype(dtype: str) -> np.dtype:
    """Gives NumPy's dtype for TensorFlow's name of one; bfloat16 comes from the package that TensorFlow uses."""
    held: np.dtype = np.dtype(tf.dtypes.as_dtype(dtype).as_numpy_dtype)
    return held


def rounded(x: np.ndarray, dtype: str, low: float, high: float) -> np.ndarray:
    """Gives the numbers of `[low, high]` that a dtype can hold and that lie nearest to `x`, as float64.

    NaN stays NaN.
    """
    low, high = limits(dtype, low, high)
    with np.errstate(over="ignore", invalid="ignore"):
        held = np.asarray(np.clip(x, low, high)).astype(numpy_dtype(dtype)).astype(np.float64)
        return np.asarray(np.clip(held, low, high))


def limits(dtype: str, low: float, high: float) -> tuple[float, float]:
    """Gives the smallest and the largest finite number of a dtype in `[low, high]`."""
    largest = float_format(dtype).max
    ends = np.clip(np.array([low, high], np.float64), -largest, largest)
    held = ends.astype(numpy_dtype(dtype))
    # Rounding may have left the range, as 0.3 does in bfloat16.
    if float(held[0]) < ends[0]:
        held[:1] = stepped(held[:1], np.array([1]))
    if float(held[1]) > ends[1]:
        held[1:] = stepped(held[1:], np.array([-1]))
    return float(held[0]), float(held[1])


def stepped(x: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Gives the numbers that lie `steps` places above each number of `x`, in the dtype of `x`.

    The bits of a positive float count upwards and those of a negative one downwards; np.nextafter does not know
    bfloat16, and takes one step at a time.
    """
    size = x.dtype.itemsize
    signed = x.view(f"i{size}").astype(np.int64)
    sign = np.int64(-1) << np.int64(8 * size - 1) if size < 8 else np.iinfo(np.int64).min
    place = np.where(signed < 0, sign - signed, signed)
    place = place + steps
    bits = np.where(place < 0, sign - place, place)
    return np.asarray(bits.astype(f"i{size}").view(x.dtype))


def spelled(x: float, dtype: str) -> str:
    """Gives the shortest code that reads as `x` in a dtype."""
    if np.isnan(x) or np.isinf(x):
        return "np.nan" if np.isnan(x) else "np.inf" if x > 0 else "-np.inf"
    target = numpy_dtype(dtype)
    for digits in range(1, 18):
        text = f"{x:.{digits}g}"
        with np.errstate(over="ignore"):
            if float(np.array(float(text)).astype(target)) == x:
                number = float(text)
                return (
                    repr(int(number)) + ".0" if number.is_integer() and abs(number) < 1e6 and x != 0 else repr(number)
                )
    return repr(float(x))
