"""The numbers that are tried, and how far apart two of them are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from nanguard.intervals import float_format

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

HALVES = ("float16", "bfloat16")
CHUNK = 1 << 20  # numbers at a time: a float64 copy of them is 8 MiB


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """Gives NumPy's dtype by TensorFlow's name for it."""
    found: np.dtype[np.generic] = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
    return found


def all_numbers(dtype: str) -> Array:
    """Gives every finite number of a half-precision dtype; each of both zeros."""
    return finite(np.arange(1 << 16, dtype=np.uint16).view(numpy_dtype(dtype)))


def finite(x: Array) -> Array:
    """Gives the finite ones of some numbers."""
    with np.errstate(invalid="ignore"):  # a signalling NaN among random bits
        return x[np.isfinite(x)]


def special_numbers(dtype: str) -> Array:
    """Gives the numbers of a dtype at which something changes, with their neighbours and negatives."""
    limits = float_format(dtype)
    smallest = math.ldexp(limits.smallest_normal, 1 - limits.precision)
    turns = [
        0.0, smallest, limits.smallest_normal / 2, limits.smallest_normal, limits.floor, 1 / limits.floor,
        limits.eps, limits.eps / 2, math.sqrt(limits.eps), limits.exp_limit, limits.sinh_limit, limits.square_limit,
        math.sqrt(limits.max), limits.max / 2, limits.max, -math.log(limits.smallest_normal),
        -math.log(smallest), 1e-37, 1e-12, 1e-10, 1e-7, 1e-5, 1e-4, 1e-3, 0.1, 0.25, 1 / 3, 0.5, math.log(2), 0.9,
        0.99, 1.0, 1.5, 2.0, math.e, 3.0, math.pi, 4.0, 5.0, 10.0, 16.0, 17.0, 20.0, 64.0, 100.0, 1e3, 1e4, 65504.0,
        1e9, 1e30,
    ]  # fmt: skip
    positive = finite(np.array([x for x in turns if x <= limits.max], numpy_dtype(dtype)))
    bits = positive.view(f"u{positive.dtype.itemsize}")
    one = bits.dtype.type(1)
    near = np.concatenate([bits, bits + one, np.where(bits > 0, bits - one, bits)]).view(positive.dtype)
    return unique(np.concatenate([finite(near), -finite(near)]))


def unique(x: Array) -> Array:
    """Gives the different numbers among some, with both zeros."""
    return np.unique(x.view(f"u{x.dtype.itemsize}")).view(x.dtype)


def every_exponent(dtype: str, *, significands: int) -> Array:
    """Gives numbers of both signs in every binade of a dtype, at evenly spread significands."""
    limits = float_format(dtype)
    exponents = np.arange(1 - limits.max_exponent, limits.max_exponent + 1)
    steps = 1 + np.arange(significands) / significands
    positive = np.ldexp(steps[None, :], exponents[:, None]).ravel().astype(numpy_dtype(dtype))
    return np.concatenate([positive, -positive])


def random_numbers(dtype: str, number: int, random: np.random.Generator) -> Array:
    """Gives finite numbers whose bits are random, so that every binade has as many."""
    size = numpy_dtype(dtype).itemsize
    bits = random.integers(0, 1 << (8 * size), number, dtype=f"u{size}", endpoint=False)
    return finite(bits.view(numpy_dtype(dtype)))


def everyday_numbers(dtype: str, number: int, random: np.random.Generator) -> Array:
    """Gives numbers as trainings have them: both signs, mostly between 1e-3 and 30."""
    signs = random.choice([-1.0, 1.0], number)
    return (signs * np.exp(random.uniform(math.log(1e-3), math.log(30), number))).astype(numpy_dtype(dtype))


def pairs(x: Array, y: Array) -> tuple[Array, Array]:
    """Gives every number of `x` with every number of `y`."""
    return np.repeat(x, len(y)), np.tile(y, len(x))


def chunks(operands: tuple[Array, ...]) -> Iterator[tuple[Array, ...]]:
    """Cuts long operands, all along their first axis, into parts that fit the memory."""
    for start in range(0, len(operands[0]), CHUNK):
        yield tuple(operand[start : start + CHUNK] for operand in operands)


def as_float64(x: Array) -> Floats:
    """Gives numbers of any dtype exactly."""
    return np.asarray(x).astype(np.float64)


def ulps(value: Array, truth: Floats, dtype: str, scale: Floats | None = None) -> Floats:
    """Gives how far values are from the truth, in units in the last place of the truth.

    Args:
        value: What was computed, in `dtype`.
        truth: What is right, so much more precisely that its own error does not count.
        dtype: Whose unit it is. Below the smallest normal number it is the smallest positive number.
        scale: Numbers in whose last place to count instead, for sums whose terms cancel.
    """
    limits = float_format(dtype)
    with np.errstate(all="ignore"):
        # frexp gives exponents for significands in [0.5, 1), one more than that of the smallest normal number's.
        size = truth if scale is None else scale
        smallest = 2 - limits.max_exponent
        exponent = np.where(size == 0, smallest, np.maximum(np.frexp(size)[1], smallest))  # frexp's of 0 is that of 1
        distance: Floats = np.abs(as_float64(value) - truth) / np.ldexp(1.0, exponent - limits.precision)
    return distance
