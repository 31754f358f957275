"""Runs a function on many inputs at once, and counts those that give what no training survives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from verification.numbers import Array, as_float64

MODES = ("graph", "eager", "xla")

Mask = npt.NDArray[np.bool_]
Runner = Callable[[Sequence[Array]], "Result"]


@dataclass(frozen=True)
class Result:
    """What a function gave for some inputs, the first axis being that of the inputs.

    Args:
        value: Its value.
        gradients: The gradient to each differentiated operand.
    """

    value: Array
    gradients: tuple[Array, ...]

    @property
    def has_bad_value(self) -> Mask:
        """Where the value is not finite."""
        return np.logical_not(all_finite(self.value))

    @property
    def has_bad_gradient(self) -> Mask:
        """Where a gradient is not finite."""
        return np.asarray(np.any([~all_finite(gradient) for gradient in self.gradients], axis=0))

    @property
    def has_bad_square(self) -> Mask:
        """Where the square of a gradient, as an optimizer keeps it in float32 at least, is not finite."""
        with np.errstate(all="ignore"):
            squares = [np.square(gradient.astype(wide(gradient.dtype))) for gradient in self.gradients]
        return np.asarray(np.any([~all_finite(square) for square in squares], axis=0))

    @property
    def has_zero_gradient(self) -> Mask:
        """Where the gradient to the last operand, which is the prediction of a loss, is 0 as a whole."""
        gradient = as_float64(self.gradients[-1])
        return np.asarray((gradient == 0).reshape(len(gradient), -1).all(axis=1))


@dataclass(frozen=True)
class Failure:
    """A function that could not be run in one dtype and mode."""

    arm: str
    dtype: str
    mode: str
    message: str

    @classmethod
    def of(cls, arm: str, dtype: str, mode: str, error: Exception) -> Failure:
        """Keeps the last line of an error, which in TensorFlow's says what is wrong."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return cls(arm, dtype, mode, f"{type(error).__name__}: {lines[-1][:160] if lines else ''}")


@dataclass
class Tally:
    """The figures of one function in one dtype and mode.

    Args:
        inputs: Finite inputs tried.
        value: Inputs whose value is not finite.
        gradient: Inputs with a gradient that is not finite.
        square: Inputs with a gradient whose square is not finite; those of `gradient` are among them.
        zero: Wrong predictions whose gradient is 0.
        ulp: Largest error in units in the last place, None if nothing could be judged.
        ulp_at: The operands of the largest error.
        judged: Inputs whose value was held against the truth.
        flushed: Inputs below the smallest normal number, or with a result there, that were read or written as 0.
        clamped: Inputs at which the plain op is safe, but an operand is beyond where the op says that it clamps. For a
            loss those of such inputs that would count in `farther`.
        farther: Inputs whose value is farther from the truth than the peer's, and by more than the bar.
        example: The operands of one input that gave something bad.
    """

    inputs: int = 0
    value: int = 0
    gradient: int = 0
    square: int = 0
    zero: int = 0
    ulp: float | None = None
    ulp_at: tuple[Any, ...] = ()
    judged: int = 0
    flushed: int = 0
    clamped: int = 0
    farther: int = 0
    example: tuple[Any, ...] = field(default=())

    def add(self, result: Result, operands: Sequence[Array]) -> None:
        """Counts what is not finite."""
        bad_value, bad_gradient, bad_square = result.has_bad_value, result.has_bad_gradient, result.has_bad_square
        self.inputs += len(bad_value)
        self.value += int(bad_value.sum())
        self.gradient += int(bad_gradient.sum())
        self.square += int(bad_square.sum())
        self.note(bad_value | bad_gradient | bad_square, operands)

    def note(self, is_bad: Mask, operands: Sequence[Array]) -> None:
        """Keeps the operands of one bad input, for whoever mends the function."""
        if not self.example and is_bad.any():
            self.example = at(operands, int(np.argmax(is_bad)))

    def judge(self, errors: npt.NDArray[np.float64], operands: Sequence[Array]) -> None:
        """Takes in the errors of some values, in ulp."""
        if not len(errors):
            return
        self.judged += len(errors)
        worst = int(np.argmax(errors))
        if self.ulp is None or errors[worst] > self.ulp:
            self.ulp, self.ulp_at = float(errors[worst]), at(operands, worst)

    def merge(self, other: Tally) -> None:
        """Adds the figures of other inputs of the same function."""
        for name in ("inputs", "value", "gradient", "square", "zero", "judged", "flushed", "clamped", "farther"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.example = self.example or other.example
        if other.ulp is not None and (self.ulp is None or other.ulp > self.ulp):
            self.ulp, self.ulp_at = other.ulp, other.ulp_at


def all_finite(x: Array) -> Mask:
    """Gives for each input whether all that belongs to it is finite."""
    return np.asarray(np.isfinite(x).reshape(len(x), -1).all(axis=1))


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Gives the dtype in which an optimizer keeps squares of gradients of a dtype."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def at(operands: Sequence[Array], place: int) -> tuple[Any, ...]:
    """Gives the operands of one input as Python's numbers or lists."""
    return tuple(np.asarray(operand[place]).astype(np.float64).tolist() for operand in operands)


def runner(function: Callable[..., Any], *, mode: str, fixed: int = 0) -> Runner:
    """Gives a function that takes arrays and gives the value and the gradients, computed in one mode.

    Args:
        function: Takes tensors, and gives one, whose rows depend on the same rows of the operands only.
        mode: One of `MODES`.
        fixed: How many of the first operands are not differentiated, such as labels.
    """

    def step(*operands: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        differentiated = operands[fixed:]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(differentiated)
            value = function(*operands)
        return value, tape.gradient(value, differentiated, unconnected_gradients="zero")

    compiled: dict[Any, Callable[..., Any]] = {}

    def run(arrays: Sequence[Array]) -> Result:
        operands = [tf.constant(array) for array in arrays]
        if mode == "eager":
            value, gradients = step(*operands)
        else:
            # XLA compiles for each shape; a graph is traced once for all lengths.
            shapes = [[None, *operand.shape[1:]] if mode == "graph" else operand.shape for operand in operands]
            signature = [tf.TensorSpec(shape, operand.dtype) for shape, operand in zip(shapes, operands, strict=True)]
            key = tuple(signature)
            if key not in compiled:
                # Autograph has nothing to rewrite here, and takes as long again.
                compiled[key] = tf.function(step, input_signature=signature, jit_compile=mode == "xla", autograph=False)
            value, gradients = compiled[key](*operands)
        return Result(value.numpy(), tuple(gradient.numpy() for gradient in gradients))

    return run


def resolve(name: str) -> Callable[..., Any]:
    """Gives what a public name of TensorFlow or Keras stands for."""
    import keras

    root, *parts = name.split(".")
    found: Any = {"tf": tf, "keras": keras}[root]
    for part in parts:
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]
