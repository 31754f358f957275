"""How an op is called with rows of numbers, where it takes more than the numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.intervals import FLOAT_FORMATS, FloatFormat, float_format
from nanguard.ops._operation import OpRecord
from verification.numbers import Array, as_float64, numpy_dtype, special_numbers
from verification.sweep import Mask

SAFE_FROM = 2.0**-10  # where the logarithm of `select` begins
SMALL_SIDE = 32  # of a matrix that is decomposed

Shape = Callable[[Array], Array]
Clamp = Callable[[FloatFormat, Sequence[Array]], Mask]


@dataclass(frozen=True)
class Way:
    """How an op and its peers are called, so that each row of the operands is one input.

    Args:
        operands_number: How many operands it takes.
        row: Shape of one input; () for one number.
        arguments: Further arguments, by the names that the op and its peers share.
        adapt: Makes a row of any numbers into one that the op is meant for.
        call: Calls the op, for those whose operands do not simply come first.
        call_peer: Calls the peers, where that is done in another way.
        settle: Makes of such numbers what the plain op takes without complaint.
        dtypes: Those in which its operands exist.
        ordinary: Numbers that it is defined for lie between these, to take the time with.
    """

    operands_number: int
    row: tuple[int, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    adapt: Shape = np.asarray
    call: Callable[..., Any] | None = None
    call_peer: Callable[..., Any] | None = None
    ordinary: tuple[float, float] = (0.1, 0.9)
    settle: Shape = np.asarray
    dtypes: tuple[str, ...] = tuple(FLOAT_FORMATS)

    @property
    def is_elementwise(self) -> bool:
        return self.row == ()

    def bind(self, function: Callable[..., Any], *, is_peer: bool = False) -> Callable[..., Any]:
        """Gives the function of the operands alone."""
        call = self.call_peer if is_peer and self.call_peer is not None else self.call

        # keras.losses.kl_divergence has no `axis`: it takes the last one, as is asked of the others.
        taken = inspect.signature(function).parameters if is_peer else self.arguments
        arguments = {name: value for name, value in self.arguments.items() if name in taken}

        def bound(*operands: Any) -> Any:
            if call is not None:
                return call(function, *operands)
            return function(*operands, **arguments)

        return bound

    def everyday(self, side: int) -> tuple[Array, ...]:
        """Gives float32 operands of `side * side` numbers that every op is defined for, to take the time with."""
        random = np.random.default_rng(0)
        shape = (
            (side, side) if len(self.row) < 2 else (side * side // (SMALL_SIDE * SMALL_SIDE), SMALL_SIDE, SMALL_SIDE)
        )
        numbers = [random.uniform(*self.ordinary, shape) for _ in range(self.operands_number)]
        return tuple(self.settle(self.adapt(x)).astype(np.float32) for x in numbers)

    def operands(self, dtype: str, number: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Gives rows for every operand: equal and unequal special numbers, everyday numbers, and both."""
        return tuple(
            self.adapt(rows(dtype, self.row, number, random)).astype(numpy_dtype(dtype))
            for _ in range(self.operands_number)
        )


def rows(dtype: str, shape: tuple[int, ...], number: int, random: np.random.Generator) -> Array:
    """Gives rows of finite numbers of a dtype."""
    special = special_numbers(dtype)
    # Every special number alone in a row: all zero, all equal, all at the end of the range.
    constant = np.broadcast_to(special.reshape(-1, *[1] * len(shape)), (len(special), *shape))
    mixed = random.choice(special, (number, *shape))
    # A row of few different numbers, so that ties and zeros are common.
    tied = random.choice(np.array([0.0, 1.0, -1.0, 0.5, 1e-4], special.dtype), (number, *shape))
    largest = np.where(random.random((number, *shape)) < 0.5, -1, 1) * float_format(dtype).max
    everyday = random.normal(size=(number, *shape)) * 10.0 ** random.integers(-3, 2, (number, *[1] * len(shape)))
    parts = [constant, mixed, tied, largest.astype(special.dtype), everyday.astype(special.dtype)]
    return np.concatenate(parts)


def _symmetric(x: Array) -> Array:
    return np.where(np.tri(x.shape[-1], dtype=bool), x, np.swapaxes(x, -1, -2))


def _definite(x: Array) -> Array:
    return x + x.shape[-1] * np.eye(x.shape[-1])


def _every_part(function: Callable[..., Any], x: tf.Tensor) -> tf.Tensor:
    """Gives all results of a decomposition side by side, a row for each matrix."""
    parts = tf.nest.flatten(function(x))
    return tf.concat([tf.reshape(part, [tf.shape(x)[0], -1]) for part in parts], axis=-1)


def _of_complex(function: Callable[..., Any], x: tf.Tensor) -> tf.Tensor:
    return function(tf.complex(x[..., 0], x[..., 1]))


def _often_positive(x: Array) -> Array:
    """Makes half of the rows ones that can be parameters of a distribution."""
    x = x.copy()
    x[::2] = np.abs(x[::2])
    return x


WAYS: dict[str, Way] = {
    "cholesky": Way(1, row=(2, 2), adapt=_symmetric, settle=_definite),
    "eigh": Way(1, row=(2, 2), adapt=_symmetric, call=_every_part),
    "logdet": Way(1, row=(2, 2), adapt=_symmetric, settle=_definite),
    "magnitude": Way(1, row=(2,), call=_of_complex, dtypes=("float32", "float64")),
    "pairwise_distances": Way(1, row=(3, 2)),
    # The logarithm behind a condition, as it is written by hand: its gradient is what select is for.
    "select": Way(
        1,
        call=lambda select, x: select(x > SAFE_FROM, tf.math.log, x),
        call_peer=lambda where, x: where(x > SAFE_FROM, tf.math.log(x), tf.zeros_like(x)),
    ),
    "stft_magnitude": Way(1, row=(12,), arguments={"frame_length": 8, "frame_step": 4}),
    "svd": Way(1, row=(2, 2), call=_every_part),
}
"""Ops that need more than their record says."""


def way_of(record: OpRecord) -> Way:
    """Gives how an op is called."""
    if record.name in WAYS:
        return WAYS[record.name]
    if record.name == "entropy" or record.name.startswith("kl_"):
        return replace(_plain_way(record), adapt=_often_positive)
    return _plain_way(record)


def _plain_way(record: OpRecord) -> Way:
    if record.kind == "elementwise":
        return Way(record.operands, ordinary=(1.1, 2.0) if record.name == "acosh" else (0.1, 0.9))
    takes_axis = "axis" in inspect.signature(record.function).parameters
    return Way(record.operands, row=(4,), arguments={"axis": -1} if takes_axis else {})


def _below_floor(place: int) -> Clamp:
    def clamped(limits: FloatFormat, operands: Sequence[Array]) -> Mask:
        return np.asarray(as_float64(operands[place]) < limits.floor)

    return clamped


def _near_zero(place: int) -> Clamp:
    def clamped(limits: FloatFormat, operands: Sequence[Array]) -> Mask:
        return np.asarray(np.abs(as_float64(operands[place])) < limits.floor)

    return clamped


CLAMPS: dict[str, Clamp] = {
    "log2": _below_floor(0),
    "log10": _below_floor(0),
    "ndtri": _below_floor(0),
    "xlogy": _below_floor(1),
    "divide": _near_zero(1),
    "reciprocal": _near_zero(0),
}
"""Where an op's docstring says that it clamps an operand although the plain op may be safe: at `1e-30 * log(1e-25)`."""
