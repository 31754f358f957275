"""What all losses share: weights, masks and reductions that leave no NaN, and classes made of functions."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

from nanguard.backend.predictions import cast_prediction, map_prediction, mask_of
from nanguard.ops._bounds import clamp, format_of

Nested = Any
"""A tensor, or tensors in lists, tuples and dicts."""

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)


class Loss(keras.losses.Loss):  # type: ignore[misc]
    """Base of all losses: as `keras.losses.Loss`, with reductions and weights that stay finite.

    A sample, or a time step, that has weight 0 or is masked takes no part at all: it is replaced before `call` sees
    it, so that a NaN in it reaches neither the value nor a gradient. Keras multiplies by 0 instead, and 0 * NaN is NaN.
    A batch in which nothing is left, or which is empty, gives 0 with gradients of 0.

    Args:
        name: Name of the loss. Defaults to that of the class.
        reduction: "sum_over_batch_size" or "mean" divide the sum by the number of values, "mean_with_sample_weight"
            by the sum of the weights; "sum"; "none" or None leave the values as they are.
        dtype: Dtype to compute in. Defaults to `keras.config.floatx()`.

    Raises:
        ValueError: If `reduction` is none of these.

    Example:

    >>> class Error(Loss):
    ...     def call(self, y_true, y_pred):
    ...         return tf.reduce_mean(tf.abs(y_pred - y_true), axis=-1)
    >>> error = Error(reduction="mean_with_sample_weight")
    >>> float(error([[1.0], [float("nan")]], [[3.0], [0.5]], sample_weight=[1.0, 0.0]))
    2.0
    """

    def __init__(
        self, name: str | None = None, reduction: str | None = "sum_over_batch_size", dtype: Any = None
    ) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"`reduction` must be one of {REDUCTIONS}. Received: reduction={reduction!r}.")
        super().__init__(name=name, dtype=dtype)
        # Not by way of Keras: its older versions do not know all of them.
        self.reduction = reduction

    def __call__(self, y_true: Nested, y_pred: Nested, sample_weight: Any = None) -> tf.Tensor:
        with tf.name_scope(self.name):
            mask = mask_of(y_pred)
            y_pred = tf.nest.map_structure(lambda y: cast_prediction(y, self.dtype), to_tensors(y_pred))
            y_true = tf.nest.map_structure(self._convert_target, to_tensors(y_true))
            weights = [
                tf.cast(tf.convert_to_tensor(part), self.dtype) for part in (sample_weight, mask) if part is not None
            ]
            for weight in weights:
                y_true, y_pred = without(weight, y_true), without(weight, y_pred)
            values = self.call(y_true, y_pred)
            sample_weight = weights[0] if sample_weight is not None else None
            mask = both(weights[-1] if mask is not None else None, mask_of(values))
            return self._reduce(tf.cast(values, self.dtype), sample_weight, mask)

    def _convert_target(self, target: Any) -> tf.Tensor:
        """Gives a target as a tensor; class numbers keep their integer dtype, in which they are exact."""
        return target if target.dtype.is_integer else tf.cast(target, self.dtype)

    def _reduce(self, values: tf.Tensor, sample_weight: tf.Tensor | None, mask: tf.Tensor | None) -> tf.Tensor:
        weights = None if sample_weight is None else align(sample_weight, values)
        if mask is not None:
            mask = align(tf.cast(mask, values.dtype), values)
            if self.reduction in ("mean", "sum_over_batch_size"):
                # The mean over what is left, as Keras has it.
                left = tf.reduce_sum(tf.cast(mask, tf.float32))
                mask *= tf.cast(tf.math.divide_no_nan(number_of(mask, tf.float32), left), mask.dtype)
            weights = mask if weights is None else weights * mask
        if weights is not None:
            values = cut(values * weights)
        if self.reduction in (None, "none"):
            return values
        if self.reduction == "sum":
            return finite_sum(values)
        if self.reduction == "mean_with_sample_weight" and weights is not None:
            divisor = tf.reduce_sum(tf.broadcast_to(weights, tf.shape(values)))
        else:
            divisor = number_of(values, tf.float32 if values.dtype.size == 2 else values.dtype)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return finite_sum(values, divisor) / replicas if replicas > 1 else finite_sum(values, divisor)


class FunctionLoss(Loss):
    """A loss class made of a function of `y_true` and `y_pred`.

    The class takes the function's further arguments, in their order, then `reduction`, `name` and `dtype`. It is
    made by `class MeanSquaredError(FunctionLoss, function=mean_squared_error)` and is registered with Keras, so that
    a compiled model saves and loads with it.
    """

    function: ClassVar[Callable[..., tf.Tensor]]

    def __init_subclass__(
        cls,
        *,
        function: Callable[..., tf.Tensor],
        order: tuple[str, ...] = (),
        defaults: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes the class.

        Args:
            function: What computes the values.
            order: Names of all arguments in the order in which the class takes them, where it is another; an argument
                of the function that is not among them is not taken.
            defaults: What stands for a default, where it is another.
            kwargs: For other bases.
        """
        super().__init_subclass__(**kwargs)
        cls.function = staticmethod(function)
        own = inspect.signature(function).parameters
        known = {name: own[name].default for name in list(own)[2:]}
        known |= {"reduction": "sum_over_batch_size", "name": function.__name__, "dtype": None, **(defaults or {})}
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        cls.__signature__ = inspect.Signature(
            [inspect.Parameter(name, kind, default=known[name]) for name in order or known]
        )
        cls.__doc__ = _class_docstring(cls, function)
        keras.saving.register_keras_serializable(package="nanguard")(cls)

    __signature__: ClassVar[inspect.Signature]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}. It takes {self.__signature__}.") from None
        bound.apply_defaults()
        arguments = bound.arguments
        common = {name: arguments.pop(name) for name in ("name", "reduction", "dtype")}
        super().__init__(**common)
        self.arguments = dict(arguments)

    def call(self, y_true: Nested, y_pred: Nested) -> tf.Tensor:
        return type(self).function(y_true, y_pred, **self.arguments)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dtype": self.dtype, **keras.saving.serialize_keras_object(self.arguments)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FunctionLoss:
        return cls(**keras.saving.deserialize_keras_object(config))


def _class_docstring(cls: type, function: Callable[..., tf.Tensor]) -> str:
    """Gives what a class and the function that it is made of say together, so that `help` of either is whole."""
    own, (summary, _, body) = inspect.cleandoc(cls.__doc__ or ""), (inspect.getdoc(function) or "").partition("\n\n")
    takes = str(inspect.signature(cls)).replace(" -> None", "")
    call = (
        f"Made as `{cls.__name__}{takes}` and called with `(y_true, y_pred, sample_weight=None)`. See `Loss` for "
        "`reduction`, `name` and `dtype`."
    )
    return "\n\n".join([summary, own, "\n".join(textwrap.wrap(call, 110, break_on_hyphens=False)), body])


def to_tensors(x: Nested) -> Nested:
    """Gives tensors for all that a structure holds; nested lists of numbers are one tensor, and no structure."""
    if any(isinstance(leaf, int | float) for leaf in keras.tree.flatten(x)):
        return tf.convert_to_tensor(x)
    return keras.tree.map_structure(lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf), x)


def align(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Gives weights that broadcast against values: a last axis of size 1 goes, missing axes come last."""
    while weights.shape.rank > values.shape.rank and weights.shape[-1] == 1:
        weights = tf.squeeze(weights, axis=-1)
    while 0 < weights.shape.rank < values.shape.rank:
        weights = tf.expand_dims(weights, axis=-1)
    return weights


def both(mask: tf.Tensor | None, further: tf.Tensor | None) -> tf.Tensor | None:
    """Gives the mask that keeps what both keep: the one on the predictions, and one that a loss hung on its values."""
    if mask is None or further is None:
        return further if mask is None else mask
    further = tf.cast(further, mask.dtype)
    return align(mask, further) * further


def without(weights: tf.Tensor, samples: Nested) -> Nested:
    """Gives samples with zeros in the place of those that have weight 0."""

    def replace(part: tf.Tensor) -> tf.Tensor:
        kept = align(weights, part) if part.shape.rank is not None else weights
        if kept.shape.rank == 0 or kept.shape.rank > part.shape.rank:
            return part
        return tf.where(tf.not_equal(kept, 0), part, tf.zeros_like(part))

    return tf.nest.map_structure(lambda part: map_prediction(replace, part), samples)


def number_of(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Gives how many values there are, as a float; float16 counts to 65504 only."""
    return tf.cast(tf.size(values), dtype)


def cut(values: tf.Tensor, limit: float | None = None) -> tf.Tensor:
    """Gives values cut to the largest number; a loss that was cut keeps its gradient, or it could never come down."""
    limit = format_of(values).max if limit is None else limit
    return clamp(values, -limit, limit, gradient="straight_through")


def finite_sum(values: tf.Tensor, divisor: tf.Tensor | None = None) -> tf.Tensor:
    """Gives the sum of values, over `divisor` if there is one: 0 if that is 0, and cut to the largest finite number.

    Where the sum overflows and the mean does not, the mean is right.
    """
    dtype, limit = values.dtype, format_of(values).max
    if dtype.size == 2:
        values = tf.cast(values, tf.float32)
    total = tf.reduce_sum(values)
    if divisor is not None:
        divisor = tf.cast(divisor, values.dtype)
        mean = tf.math.divide_no_nan(total, divisor)
        total = tf.where(tf.math.is_finite(mean), mean, tf.reduce_sum(tf.math.divide_no_nan(values, divisor)))
    return tf.cast(cut(total, limit), dtype)


def same_rank(y_true: tf.Tensor, y_pred: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives both with one rank, where they differ by a last axis of size 1."""
    true_rank, pred_rank = y_true.shape.rank, y_pred.shape.rank
    if true_rank is None or pred_rank is None or true_rank == pred_rank:
        return y_true, y_pred
    if true_rank == pred_rank + 1 and y_true.shape[-1] == 1:
        if pred_rank == 1:
            return y_true, map_prediction(lambda y: tf.expand_dims(y, -1), y_pred)
        return tf.squeeze(y_true, -1), y_pred
    if pred_rank == true_rank + 1 and y_pred.shape[-1] == 1:
        if true_rank == 1:
            return tf.expand_dims(y_true, -1), y_pred
        return y_true, map_prediction(lambda y: tf.squeeze(y, -1), y_pred)
    return y_true, y_pred
