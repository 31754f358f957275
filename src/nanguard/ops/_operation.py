"""What makes a function of tensors an op of nanguard: what it cures and replaces, and its place in a Keras model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, cast

import keras
import tensorflow as tf

from nanguard.hazards import Hazard

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

TensorLike: TypeAlias = Any
"""A tensor of TensorFlow or Keras, a variable, an array, a number, or nested lists of numbers."""

Kind = Literal["elementwise", "reduction", "other"]


@dataclass(frozen=True)
class OpRecord:
    """What is known of one op, for the tests, the measurements and the docs.

    Args:
        name: Its name in `nanguard.ops`.
        function: The public function.
        cures: The hazards that it cures.
        replaces: Public names of what it may be written in the place of, the nearest first.
        kind: "elementwise" if each element of the result is made of the elements at its place; "reduction" if it
            takes `axis`; "other" for the rest.
        operands: How many of the leading arguments are tensors.
        aliases: Other names of its arguments, as those that it replaces spell them.
    """

    name: str
    function: Callable[..., Any]
    cures: tuple[Hazard, ...]
    replaces: tuple[str, ...]
    kind: Kind
    operands: int
    aliases: Mapping[str, str] = field(default_factory=dict)


OPS: dict[str, OpRecord] = {}
"""Every op by its name."""


def cures(
    *hazards: Hazard,
    replaces: tuple[str, ...] = (),
    kind: Kind = "elementwise",
    operands: int = 1,
    aliases: Mapping[str, str] | None = None,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Makes a function an op that cures some hazards.

    The op takes the symbolic tensors of a Keras functional model, and such a model saves and loads with it. It takes
    `name=` as TensorFlow's ops do, and each argument also by the names in `aliases`.

    Args:
        hazards: What it cures.
        replaces: See `OpRecord`.
        kind: See `OpRecord`.
        operands: See `OpRecord`.
        aliases: From another name of an argument to its own.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        own_names = dict(aliases or {})
        op_name = function.__name__

        @functools.wraps(function)
        def op(*args: Any, name: str | None = None, **kwargs: Any) -> Any:
            for other in own_names.keys() & kwargs.keys():
                kwargs[own_names[other]] = kwargs.pop(other)
            if _is_symbolic(args, kwargs):
                return SafeOp(op_name, name=name)(*args, **kwargs)
            if name is None:
                return function(*args, **kwargs)
            with tf.name_scope(name):
                return function(*args, **kwargs)

        # AutoGraph has nothing to do in it, and takes its time.
        op = tf.autograph.experimental.do_not_convert(op)
        OPS[op_name] = OpRecord(op_name, op, hazards, replaces, kind, operands, own_names)
        return cast(Callable[Parameters, Result], op)

    return decorate


@keras.saving.register_keras_serializable(package="nanguard")
class SafeOp(keras.Operation):  # type: ignore[misc]
    """One op of nanguard in a Keras functional model.

    Args:
        op: Its name in `nanguard.ops`.
        name: Name of the node. Defaults to `safe_log` and the like, numbered from the second on.
    """

    def __init__(self, op: str, *, name: str | None = None) -> None:
        if name is None:
            name = f"safe_{op}"
            number = keras.backend.get_uid(name) - 1
            name = f"{name}_{number}" if number else name
        super().__init__(name=name)
        self.op = op

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return OPS[self.op].function(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {"op": self.op, "name": self.name}


def _is_symbolic(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(isinstance(leaf, keras.KerasTensor) for leaf in tf.nest.flatten((args, kwargs)))


def to_float(x: TensorLike, like: tf.Tensor | None = None) -> tf.Tensor:
    """Gives `x` as a floating tensor.

    A tensor or array keeps its float dtype; whole numbers become `keras.config.floatx()`.

    Args:
        x: What came.
        like: A tensor whose dtype a Python number or list takes on.

    Raises:
        ValueError: If `x` holds no real numbers.
    """
    if like is not None and isinstance(x, int | float | list | tuple):
        return tf.convert_to_tensor(x, dtype=like.dtype)
    x = tf.convert_to_tensor(x)
    if x.dtype.is_floating:
        return x
    if x.dtype.is_integer or x.dtype.is_bool:
        return tf.cast(x, keras.config.floatx())
    raise ValueError(
        f"The operand must hold real numbers. Received: dtype={x.dtype.name}. Of complex numbers take the real and "
        "the imaginary part."
    )


def to_floats(x: TensorLike, y: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives two operands as tensors of one float dtype, which is the one that Keras promotes theirs to.

    A Python number takes on the dtype of the other operand.
    """
    if isinstance(x, int | float) and not isinstance(y, int | float):
        y = to_float(y)
        return to_float(x, like=y), y
    x = to_float(x)
    y = to_float(y, like=x if isinstance(y, int | float) else None)
    if x.dtype != y.dtype:
        dtype = keras.backend.result_type(x.dtype.name, y.dtype.name)
        x, y = tf.cast(x, dtype), tf.cast(y, dtype)
    return x, y
