"""The question that the whole guard asks of a step: one sum that is finite only if every number in it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from nanguard.backend import graphs

# Well below the largest float32. Adam squares a gradient before it weighs the square: half a sum of squares below this
# leaves no square infinite, where the largest float would.
LIMIT = 1e38
# Half a sum of squares below this holds no number above 1.5e16, and of such numbers no trusted optimizer makes an
# infinity. It can of larger ones: accumulated gradients of 1e30 are finite, and their squares are not.
CALM = 1e32


def half_square(tensor: Any) -> Any:
    """Half the sum of squares in float32: NaN or Inf if any number is, or if a square overflows."""
    if tensor.dtype.is_complex:
        tensor = tf.abs(tensor)
    if tensor.dtype in (tf.float16, tf.bfloat16):
        tensor = tf.cast(tensor, tf.float32)
    return tf.cast(tf.nn.l2_loss(tensor), tf.float32)


def total(tensor: Any) -> Any:
    """The sum of all numbers in float32: NaN or Inf if any number is. Opposite numbers may cancel; a NaN does not.

    For numbers whose squares may overflow while they are healthy, such as the second moments of Adam.
    """
    if tensor.dtype.is_complex:
        tensor = tf.abs(tensor)
    if tensor.shape.rank != 0:
        if tensor.dtype in (tf.float16, tf.bfloat16):
            tensor = tf.cast(tensor, tf.float32)
        tensor = tf.reduce_sum(tensor)
    return tf.cast(tensor, tf.float32)


def is_clean(number: Any) -> Any:
    """Whether a sum of sums shows that every number in it is finite. False proves nothing: the sum may overflow."""
    return tf.abs(number) < LIMIT


def is_calm(half_square: Any) -> Any:
    """Whether half a sum of squares shows that every number in it is finite and far from overflowing.

    False proves nothing. Each number is squared where it could be added up too: then opposite ones do not cancel, and
    TensorFlow's kernel takes half the time of that for sums on a small tensor.
    """
    return half_square < CALM


def are_finite(tensors: Sequence[Any]) -> Any:
    """Whether every number of all tensors is finite, one by one. Slow: for steps that are under suspicion."""
    finite = [tf.reduce_all(tf.math.is_finite(_parts(tensor))) for tensor in tensors if holds_floats(tensor)]
    return tf.reduce_all(tf.stack(finite)) if finite else tf.constant(True)


def holds_floats(tensor: Any) -> bool:
    """Whether a tensor's or a variable's numbers can be non-finite at all."""
    return bool(tensor.dtype.is_floating or tensor.dtype.is_complex)


def values(grad: Any) -> Any:
    """The numbers of a gradient, which may be sparse."""
    return grad.values if isinstance(grad, tf.IndexedSlices) else grad


def branch(condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`tf.cond` in a graph, and an ordinary `if` where the answer is known."""
    if tf.is_tensor(condition) and not tf.executing_eagerly():
        result = tf.cond(condition, then, otherwise)
        if tf.distribute.has_strategy():
            return result  # one op cannot take the variables of several devices
        for op in {id(op): op for op in map(graphs.conditional_of, tf.nest.flatten(result))}.values():
            graphs.run_unlowered(op)
        return result
    return then() if bool(condition) else otherwise()


def _parts(tensor: Any) -> Any:
    return tf.abs(tensor) if tensor.dtype.is_complex else tensor
