"""Softmax and its relatives, with masks, where nothing may be left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from nanguard.hazards import (
    ALL_MASKED_SOFTMAX,
    EXP_OVERFLOW,
    INFINITY_MINUS_INFINITY,
    LOG_OF_SATURATED_PROBABILITY,
)
from nanguard.ops._bounds import clamp, format_of
from nanguard.ops._operation import TensorLike, cures, to_float


@cures(
    ALL_MASKED_SOFTMAX,
    INFINITY_MINUS_INFINITY,
    EXP_OVERFLOW,
    replaces=("tf.nn.softmax", "keras.ops.softmax"),
    kind="reduction",
    aliases={"x": "logits"},
)
def softmax(logits: TensorLike, axis: int | None = -1, *, mask: TensorLike | None = None) -> tf.Tensor:
    """Softmax that is 0 where everything is masked.

    Value and gradient are those of `tf.nn.softmax`. A logit of `-inf` has the probability 0, and so has one that is
    masked, whatever it is. Where no other is left, all of them are 0 and so is the gradient: attention to nothing
    gives nothing.

    A NaN that is not masked comes out as NaN and makes the gradient of its slice NaN, and so does `+inf`, as in
    `tf.nn.softmax`.

    Args:
        logits: Floating tensor of one dimension or more.
        axis: The axis along which the result sums to 1. Defaults to the last.
        mask: Boolean tensor whose shape can be broadcast with that of `logits`: what to keep. Defaults to everything.

    Returns:
        Tensor of the broadcast shape and the dtype of `logits`, in `[0, 1]`.

    Example:

    >>> softmax([[0.0, 0.0], [1.0, 2.0]], mask=[[True, True], [False, False]]).numpy()
    array([[0.5, 0.5],
           [0. , 0. ]], dtype=float32)

    Cures:
        NG502 all-masked-softmax, NG203 infinity-minus-infinity, NG201 exp-overflow
    """
    axis = -1 if axis is None else axis

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def probabilities(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        plain = tf.nn.softmax(x, axis)
        may_be_empty = tf.equal(tf.reduce_max(x, axis, keepdims=True), -math.inf)

        def zero_where_empty() -> tf.Tensor:
            # The sum tells a slice of NaN, whose maximum is -inf under XLA.
            is_nan = tf.math.is_nan(tf.reduce_sum(x, axis, keepdims=True))
            return tf.math.multiply_no_nan(plain, tf.cast(is_nan | tf.logical_not(may_be_empty), x.dtype))

        y = _if(tf.reduce_any(may_be_empty), zero_where_empty, lambda: plain, mask)

        # A function of its own, since the derivative of what made `y` is NaN where nothing is left.
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def first(upstream: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, object]:
            def second(outer: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                of_y = outer * (upstream - _weighted_sum(upstream, y, axis)) - upstream * _weighted_sum(outer, y, axis)
                return _through_softmax(outer, y, axis), _through_softmax(of_y, y, axis)

            return _through_softmax(upstream, y, axis), second

        return y, lambda upstream: first(upstream, x)

    return probabilities(_masked(to_float(logits), mask))


@cures(
    LOG_OF_SATURATED_PROBABILITY,
    ALL_MASKED_SOFTMAX,
    INFINITY_MINUS_INFINITY,
    replaces=("tf.nn.log_softmax", "keras.ops.log_softmax"),
    kind="reduction",
    aliases={"x": "logits"},
)
def log_softmax(logits: TensorLike, axis: int | None = -1, *, mask: TensorLike | None = None) -> tf.Tensor:
    """Logarithm of the softmax that stays finite where something, or everything, is masked.

    Value and gradient are those of `tf.nn.log_softmax`. A logit of `-inf`, or one that is masked, whatever it is, gives
    `log(floor)` with the floor of `ops.log`, -43.7 in float32, as `log(softmax(logits))` does, and its gradient is 0:
    finite, so that 0 times it is 0. A difference of logits beyond the dtype's largest number is cut to it.

    A NaN that is not masked makes its slice NaN, and so does `+inf`, as in `tf.nn.log_softmax`.

    Args:
        logits: Floating tensor of one dimension or more.
        axis: The axis along which the probabilities sum to 1. Defaults to the last.
        mask: Boolean tensor whose shape can be broadcast with that of `logits`: what to keep. Defaults to everything.

    Returns:
        Tensor of the broadcast shape and the dtype of `logits`, `<= 0`; finite for finite logits.

    Example:

    >>> log_softmax([[0.0, 0.0, -np.inf], [1.0, 2.0, 3.0]], mask=[[True], [False]]).numpy().round(3)
    array([[ -0.693,  -0.693, -43.668],
           [-43.668, -43.668, -43.668]], dtype=float32)

    Cures:
        NG103 log-of-saturated-probability, NG502 all-masked-softmax, NG203 infinity-minus-infinity
    """
    axis = -1 if axis is None else axis

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def log_probabilities(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        limits = format_of(x)
        is_left = tf.not_equal(x, -math.inf)
        plain = tf.nn.log_softmax(x, axis)
        # A NaN makes its slice NaN as a whole, so that no minimum can pass over it.
        is_special = tf.reduce_any(tf.logical_not(tf.math.is_finite(tf.reduce_min(plain, axis))))

        # A function of its own, as in `softmax`.
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def first(upstream: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, object]:
            def where_left(t: tf.Tensor) -> tf.Tensor:
                return tf.math.multiply_no_nan(t, tf.cast(is_left, x.dtype))

            p, counted = _if(
                is_special,
                lambda: (where_left(tf.exp(plain)), where_left(upstream)),
                lambda: (tf.exp(plain), upstream),
                mask,
            )
            total = tf.reduce_sum(counted, axis, keepdims=True)

            def second(outer: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                of_upstream = where_left(outer - _weighted_sum(outer, p, axis))
                return of_upstream, _through_softmax(-total * outer, p, axis)

            return counted - total * p, second

        def finite() -> tf.Tensor:
            floored = tf.maximum(plain, tf.constant(-limits.max, x.dtype))
            return tf.where(is_left, floored, tf.constant(math.log(limits.floor), x.dtype))

        return _if(is_special, finite, lambda: plain, mask), lambda upstream: first(upstream, x)

    return log_probabilities(_masked(to_float(logits), mask))


@cures(
    EXP_OVERFLOW,
    ALL_MASKED_SOFTMAX,
    INFINITY_MINUS_INFINITY,
    replaces=("tf.reduce_logsumexp", "keras.ops.logsumexp"),
    kind="reduction",
    aliases={"input_tensor": "x"},
)
def logsumexp(
    x: TensorLike,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
    *,
    mask: TensorLike | None = None,
) -> tf.Tensor:
    """`log(sum(exp(x)))` that neither overflows nor is infinite where nothing is left.

    Value and gradient are those of `tf.reduce_logsumexp`. What is masked, whatever it is, counts as `-inf`. Where
    nothing else is left, or the slice is empty, the value is `log(floor)` with the floor of `ops.log`, -43.7 in
    float32, and the gradient is 0.

    A NaN that is not masked makes its slice NaN. `+inf` gives `+inf` with a NaN gradient, as in `tf.reduce_logsumexp`.

    Args:
        x: Floating tensor, any shape. In float16 and bfloat16 it is computed in float32.
        axis: The axes to sum along. Defaults to all.
        keepdims: Whether those axes stay, with length 1.
        mask: Boolean tensor whose shape can be broadcast with that of `x`: what to keep. Defaults to everything.

    Returns:
        Tensor of the shape of `x` without those axes and its dtype; finite for finite `x`.

    Example:

    >>> logsumexp([[1000.0, 1000.0], [-np.inf, -np.inf]], axis=1).numpy().round(2)
    array([1000.69,  -43.67], dtype=float32)

    Cures:
        NG201 exp-overflow, NG502 all-masked-softmax, NG203 infinity-minus-infinity
    """
    x = _masked(to_float(x), mask)
    wide = tf.cast(x, tf.float32) if x.dtype.size == 2 else x
    largest = tf.stop_gradient(tf.reduce_max(wide, axis, keepdims=True))
    largest = tf.where(tf.math.is_finite(largest), largest, tf.constant(0, wide.dtype))
    total = tf.reduce_sum(tf.exp(wide - largest), axis, keepdims=True)
    # The largest entry adds 1, so a sum that needs the floor is one of nothing.
    y = tf.math.log(clamp(total, low=format_of(x).floor)) + largest
    return tf.cast(y if keepdims else tf.squeeze(y, axis), x.dtype)


def _through_softmax(upstream: tf.Tensor, y: tf.Tensor, axis: int) -> tf.Tensor:
    """Gives the gradient of the logits for that of the probabilities `y`."""
    return (upstream - _weighted_sum(upstream, y, axis)) * y


def _weighted_sum(x: tf.Tensor, weights: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.reduce_sum(x * weights, axis, keepdims=True)


def _if(is_special: tf.Tensor, special: Callable[[], Any], ordinary: Callable[[], Any], mask: TensorLike | None) -> Any:
    """Gives `special()`, which takes more passes over all elements, where it is called for: with any mask it is."""
    return tf.cond(is_special, special, ordinary) if mask is None else special()


def _masked(x: tf.Tensor, mask: TensorLike | None) -> tf.Tensor:
    return x if mask is None else tf.where(tf.cast(mask, tf.bool), x, tf.constant(-math.inf, x.dtype))
