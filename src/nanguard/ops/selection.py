"""Choices between numbers whose gradients hold no trace of what was not chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from nanguard.hazards import WHERE_GRADIENT_TRAP, ZERO_TIMES_INFINITY
from nanguard.ops._bounds import format_of
from nanguard.ops._operation import OPS, OpRecord, TensorLike, cures, to_float


@cures(ZERO_TIMES_INFINITY, WHERE_GRADIENT_TRAP)
def where_finite(x: TensorLike, other: float = 0.0) -> tf.Tensor:
    """Keeps what is finite and puts a constant in the place of NaN and infinities.

    The gradient reaches `x` only where it was kept. It does not mend the gradient of what made `x`: infinity in a
    slope times 0 is NaN. To guard a function that is not finite everywhere, take `select`.

    A NaN in `x` is replaced; that is its job.

    Args:
        x: Floating tensor, any shape.
        other: The constant. Defaults to 0.

    Returns:
        Tensor of the shape and dtype of `x`; finite.

    Example:

    >>> where_finite([1.0, float("nan"), float("-inf")]).numpy()
    array([1., 0., 0.], dtype=float32)

    Cures:
        NG204 zero-times-infinity, NG303 where-gradient-trap
    """
    x = to_float(x)
    return tf.where(tf.math.is_finite(x), x, tf.constant(other, x.dtype))


@cures(ZERO_TIMES_INFINITY, WHERE_GRADIENT_TRAP, replaces=("keras.ops.nan_to_num",))
def nan_to_num(x: TensorLike, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> tf.Tensor:
    """Puts a number in the place of NaN, one in that of infinity and one in that of minus infinity.

    The gradient reaches `x` only where it was finite. See `where_finite` for what that does not mend.

    A NaN in `x` is replaced; that is its job.

    Args:
        x: Floating tensor, any shape.
        nan: Number for NaN. Defaults to 0, as in NumPy.
        posinf: Number for infinity. Defaults to the dtype's largest, as in NumPy. Its square overflows.
        neginf: Number for minus infinity. Defaults to the dtype's most negative.

    Returns:
        Tensor of the shape and dtype of `x`; finite.

    Example:

    >>> nan_to_num([1.0, float("nan"), float("inf")], posinf=9.0).numpy()
    array([1., 0., 9.], dtype=float32)

    Cures:
        NG204 zero-times-infinity, NG303 where-gradient-trap
    """
    x = to_float(x)
    largest = format_of(x).max
    above = tf.constant(largest if posinf is None else posinf, x.dtype)
    below = tf.constant(-largest if neginf is None else neginf, x.dtype)
    substitute = tf.where(tf.math.is_nan(x), tf.constant(nan, x.dtype), tf.where(x > 0, above, below))
    return tf.where(tf.math.is_finite(x), x, substitute)


def select(
    condition: TensorLike,
    fn: Callable[..., Any],
    x: Any,
    *,
    otherwise: float = 0.0,
    safe: float = 1.0,
    name: str | None = None,
) -> Any:
    """Applies a function where it is safe, with a gradient that is safe too.

    Computes `where(condition, fn(where(condition, x, safe)), otherwise)`, the double `where`. A single `where` around
    `fn(x)` mends the value only: the gradient of the side that was not chosen is 0 times infinity.

    A NaN in `x` stays where the condition holds, and is gone where it does not.

    Args:
        condition: Boolean tensor whose shape can be broadcast with that of `x`: where `fn` is safe.
        fn: Function of tensors that works element by element.
        x: Floating tensor, or a tuple of tensors that `fn` takes as its arguments.
        otherwise: Value elsewhere. Defaults to 0.
        safe: What `fn` sees elsewhere. Defaults to 1, where log, sqrt, division and powers are finite. Choose another
            number if `fn` or its gradient is not finite there, as that of acos is not.
        name: Name of the scope of its nodes in a graph.

    Returns:
        Tensor of the shape and dtype that `fn` gives. A Keras tensor if `x` or `condition` is one.

    Example:

    >>> x = tf.constant([4.0, 0.0])
    >>> select(x > 0, tf.math.log, x).numpy().round(3)
    array([1.386, 0.   ], dtype=float32)
    >>> select(x > 0, lambda a, b: a / b, (tf.ones(2), x), otherwise=-1.0).numpy()
    array([ 0.25, -1.  ], dtype=float32)

    Cures:
        NG303 where-gradient-trap
    """
    operands = x if isinstance(x, tuple) else (x,)
    is_symbolic = any(isinstance(tensor, keras.KerasTensor) for tensor in (condition, *operands))
    with tf.name_scope(name or "select"):
        if is_symbolic:
            y = fn(*(keras.ops.where(condition, operand, safe) for operand in operands))
            return keras.ops.where(condition, y, otherwise)
        safe_operands = []
        for operand in operands:
            operand = to_float(operand)
            safe_operands.append(tf.where(condition, operand, tf.constant(safe, operand.dtype)))
        y = tf.convert_to_tensor(fn(*safe_operands))
        return tf.where(condition, y, tf.constant(otherwise, y.dtype))


# By hand: a Keras model cannot save a function that it was given, so in one `select` is made of Keras's own nodes.
OPS["select"] = OpRecord("select", select, (WHERE_GRADIENT_TRAP,), ("tf.where", "keras.ops.where"), "other", 1)
