"""The numbers on which the laws of the ops are tried, and the ways to run an op on them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nanguard.intervals import float_format
from nanguard.ops._operation import OpRecord

DTYPES = ("float16", "bfloat16", "float32", "float64")
MODES = ("eager", "graph", "xla")


def largest_slope(dtype: str) -> float:
    """Gives the largest slope that an op may have."""
    return 1 / float_format(dtype).floor


@functools.cache
def special(dtype: str) -> np.ndarray:
    """Gives the finite numbers around which something happens, both signs, in the dtype."""
    limits = float_format(dtype)
    around = [limits.smallest_normal, limits.floor, limits.floor**0.5, 0.5, 1.0, 2.0, 3.0, limits.exp_limit]
    around += [limits.square_limit, limits.max / 2, 1 / limits.floor, np.pi, 10.0, limits.sinh_limit]
    numbers = np.array(around).astype(as_numpy(dtype))
    bits = bits_of(numbers)
    numbers = np.concatenate([numbers, from_bits(bits - 1, dtype), from_bits(bits + 1, dtype)])
    few = np.array([0, 1e-3, 0.1, 0.25, 0.45, 1.5, 17, 1e3, limits.max, limits.smallest_normal / 2])
    numbers = np.concatenate([numbers, few.astype(as_numpy(dtype)), from_bits(np.array([1], bits.dtype), dtype)])
    numbers = np.unique(numbers[is_finite(numbers)])
    return np.concatenate([numbers, -numbers])


@functools.cache
def sample(dtype: str, size: int = 20_000, seed: int = 7) -> np.ndarray:
    """Gives random bit patterns that are finite numbers; of a dtype of 16 bits all there are."""
    random = np.random.default_rng(seed)
    width = 8 * tf.as_dtype(dtype).size
    kind = f"u{width // 8}"
    bits = np.arange(2**16, dtype=kind) if width == 16 else random.integers(0, 2**width, size, dtype=kind)
    numbers = from_bits(bits, dtype)
    ordinary = (random.standard_normal(2000) * 2.0 ** random.integers(-6, 7, 2000)).astype(as_numpy(dtype))
    return np.concatenate([numbers[is_finite(numbers)], ordinary])


@functools.cache
def operands_for(num_operands: int, dtype: str) -> tuple[np.ndarray, ...]:
    """Gives finite operands: for two, all pairs of special numbers and a sample of the others."""
    if num_operands == 1:
        return (np.concatenate([special(dtype), sample(dtype)]),)
    pairs = np.array(list(itertools.product(special(dtype), repeat=2)), as_numpy(dtype))
    shuffled = np.random.default_rng(5).permutation(sample(dtype))[:8000].reshape(2, -1)
    return tuple(np.concatenate([pairs[:, i], shuffled[i]]) for i in range(2))


def widened(numbers: np.ndarray) -> np.ndarray:
    """Gives numbers as float64."""
    with np.errstate(invalid="ignore"):  # Some NaNs signal.
        return numbers.astype("float64")


def is_finite(numbers: np.ndarray) -> np.ndarray:
    return np.isfinite(widened(numbers))


def as_numpy(dtype: str) -> Any:
    return tf.as_dtype(dtype).as_numpy_dtype


def bits_of(numbers: np.ndarray) -> np.ndarray:
    return numbers.view(f"u{numbers.dtype.itemsize}")


def from_bits(bits: np.ndarray, dtype: str) -> np.ndarray:
    return bits.view(as_numpy(dtype))


def plain_of(record: OpRecord) -> Callable[..., Any] | None:
    """Gives the first of what an op replaces."""
    if not record.replaces:
        return None
    root, *path = record.replaces[0].split(".")
    return functools.reduce(getattr, path, {"tf": tf, "keras": keras}[root])


def in_mode(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "xla", autograph=False)


def with_gradients(function: Callable[..., Any], upstream: tf.Tensor | None = None) -> Callable[..., Any]:
    """Gives a function that gives the value and the gradients with respect to all its tensors."""

    def run(*tensors: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = function(*tensors)
        return y, tape.gradient(y, list(tensors), upstream, unconnected_gradients="zero")

    return run


NO_KERNEL = {(name, dtype) for name in ("erfinv", "ndtri") for dtype in ("float16", "bfloat16")}


def both(record: OpRecord, operands: tuple[np.ndarray, ...], mode: str) -> tuple[Any, Any]:
    """Gives value and gradients of an op, and those of the plain op if there is one, as float64."""
    has_plain = (record.name, operands[0].dtype.name) not in NO_KERNEL
    functions = [record.function, plain_of(record) if has_plain else None]

    # Not a constant: the graph optimizer would turn 1 / x into a reciprocal, which is rounded otherwise.
    def run(upstream: tf.Tensor, *tensors: tf.Tensor) -> list[Any]:
        return [with_gradients(function, upstream)(*tensors) for function in functions if function]

    found = in_mode(run, mode)(tf.ones(operands[0].shape, operands[0].dtype), *map(tf.constant, operands))
    found = tf.nest.map_structure(lambda tensor: widened(tensor.numpy()), found)
    return found[0], found[1] if len(found) > 1 else None
