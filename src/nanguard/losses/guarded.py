"""A guard around any loss, which keeps samples that are not finite from the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import keras
import tensorflow as tf

from nanguard.backend import graphs
from nanguard.backend.losses import function_loss_class, is_compiled_by_xla, log_metrics_of_losses
from nanguard.errors import NonFiniteError
from nanguard.losses import _cause
from nanguard.losses._affected import Search
from nanguard.losses._counter import SampleCount
from nanguard.losses._samples import Rows, Samples, at_least_one
from nanguard.losses._substitute import gives_values_by_row, substitute, twin

OnNonfinite: TypeAlias = Literal["ignore", "replace", "raise"]
AnyLoss: TypeAlias = "keras.losses.Loss | str | Callable[[Any, Any], Any]"

_SAID = {"ignore": "ignored", "replace": "replaced", "raise": "ignored"}


@keras.saving.register_keras_serializable(package="nanguard")
class Guarded(keras.losses.Loss):  # type: ignore[misc]
    """Any loss, kept from the samples for which it or its gradient is not finite.

    A sample is affected if a label or its weight is not finite, a prediction is NaN, or the loss or its gradient with
    respect to the predictions is not finite because of it, be it in the backward pass only. While no sample is, value
    and gradient are the loss's own, bit for bit. Else:

    - "ignore": affected samples are taken out and the loss is asked again. So value, denominator and gradients are, bit
      for bit, those of the batch without them. With no sample left the loss is 0, with gradients of 0.
    - "replace": the value of an affected sample is `replacement`, before weights, and its gradient 0; the denominator
      stays. A weight that is not finite counts as 0.
    - "raise": stops with the rows and the cause. In a graph it is TensorFlow that raises, with the same message.

    **Losses that mix samples** (contrastive, Dice over the batch). Samples whose own gradient is not finite go. If that
    of all is not, those are kept whose loss is finite together, found by halves. Only a step that is not finite pays
    for this. "replace" takes one number for the batch for the mean of its samples.

    **XLA** fixes shapes and stops for no error. There an ignored sample is masked, and value and gradients are right to
    2 ulp; but a loss that gives one number for the batch, or mixes samples, sees the first good sample, without its
    gradient, in the place of each ignored one. "raise" gives NaN as the value of affected samples.

    **Out of reach** is a NaN that the model itself holds: a layer multiplies the gradient, were it 0, by its input, so
    that a NaN among the features reaches the weights whatever the loss does. So is a gradient that is finite at the
    predictions and not at a tensor that the loss takes from elsewhere.

    Samples are counted: `fit` and `evaluate` log `<name>_ignored` (or `<name>_replaced`) for each epoch, with several
    guarded losses under the names of the outputs. A loop of your own reads `guarded.ignored`. What nobody reads is told
    in one line when the script ends.

    It costs the loss and its gradient a second time, to see whether all is well. So the loss must not depend on state
    or on random numbers, which may differ the second time.

    Args:
        loss: A loss of Keras or of `nanguard.losses`, the name of one, or a function of `y_true` and `y_pred` that
            gives one value for each sample (or for each of its parts, along further axes) or one for the batch.
            `y_true` and `y_pred` may be lists, tuples or dicts.
        on_nonfinite: "ignore", "replace" or "raise". Ignoring is the default since a sample without a number has
            nothing to teach.
        replacement: The value of a replaced sample, finite. Defaults to 0, as if nothing were wrong with it.
        labels_may_be_missing: Whether the loss itself leaves out labels that are NaN, as one over several tasks may.
            A sample is then judged by its value and gradient. By default a NaN among the labels affects the sample.
        name: Name in the logs. Defaults to that of `loss`.
        reduction: How values become one number, as Keras has it. Defaults to the loss's own.

    Raises:
        ValueError: If `on_nonfinite` is none of the three, `replacement` is not finite, or `y_pred` has no axis of
            samples.
        NonFiniteError: If a sample is affected and `on_nonfinite` is "raise".

    Example:

    >>> loss = Guarded("mse")
    >>> float(loss([[1.0], [float("nan")]], [[3.0], [0.5]]))
    4.0
    >>> float(loss.ignored.result())
    1.0

    Cures:
        NG703 missing-labels; NG301 sqrt-gradient-at-zero, NG303 where-gradient-trap and others in a loss that cannot
        be changed.
    """

    def __init__(
        self,
        loss: AnyLoss,
        on_nonfinite: OnNonfinite = "ignore",
        *,
        replacement: float = 0.0,
        labels_may_be_missing: bool = False,
        name: str | None = None,
        reduction: str | None = None,
    ) -> None:
        if on_nonfinite not in _SAID:
            raise ValueError(f"`on_nonfinite` must be one of {', '.join(_SAID)}. Received: {on_nonfinite!r}.")
        if not abs(replacement) < float("inf"):
            raise ValueError(
                f"`replacement` must be finite. Received: replacement={replacement}. To leave samples out, take "
                "on_nonfinite='ignore'."
            )
        self._given = loss
        self._loss = _loss_of(loss, reduction)
        super().__init__(name=name or self._loss.name, reduction=self._loss.reduction, dtype=self._loss.dtype)
        self._unreduced = _loss_of(self._loss, "none")
        self.on_nonfinite = on_nonfinite
        self.replacement = float(replacement)
        self.labels_may_be_missing = labels_may_be_missing
        self._counter = self._new_counter()
        log_metrics_of_losses(_counters_of_model)

    @property
    def ignored(self) -> SampleCount:
        """How many samples were affected since the last reset: a metric of Keras."""
        return self._counter

    # Losses of Keras are not converted by AutoGraph, and so neither is the function in one.
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        """Gives the loss of the samples that are not affected, reduced."""
        return self._guard(self._loss, y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Gives the values of the loss, not reduced."""
        return self._guard(self._unreduced, y_true, y_pred)

    def _guard(self, loss: keras.losses.Loss, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        with keras.name_scope(self.name):
            samples = Samples.of(y_true, y_pred, sample_weight)
            search = Search(loss, self._unreduced, samples, self.labels_may_be_missing)
            rows = tf.ones([samples.num], tf.bool)
            good = tf.cond(search.is_over(), lambda: rows, search.unaffected_rows)
            if self.on_nonfinite != "raise":
                self._counter.update_state(samples.num - tf.reduce_sum(tf.cast(good, tf.int32)))
            treat = {"ignore": self._ignore, "replace": self._replace, "raise": self._raise}[self.on_nonfinite]
            if is_compiled_by_xla():
                # A branch would keep XLA from fusing the loss with its gradient, and where all samples are good the
                # ways to treat the others change no bit.
                return treat(loss, samples, good)
            value = tf.cond(tf.reduce_all(good), lambda: samples.value(loss), lambda: treat(loss, samples, good))
            # Lowered, its branches hand what the gradient needs of them to one node, and TensorFlow logs a page about
            # the types of it.
            graphs.run_unlowered(graphs.conditional_of(value))
            return value

    def _ignore(self, loss: keras.losses.Loss, samples: Samples, good: Rows) -> tf.Tensor:
        if is_compiled_by_xla() and gives_values_by_row(loss, samples.with_stand_ins(good)):
            return substitute(loss, samples, good, 0.0, is_counted=False)
        value = _value_of_good(loss, samples, good)
        if _is_unreduced(loss) and value.shape.rank != 0:
            shape = tf.concat([tf.shape(good), tf.shape(value)[1:]], 0)
            return tf.scatter_nd(tf.where(at_least_one(good)), value, tf.cast(shape, tf.int64))
        return value

    def _replace(self, loss: keras.losses.Loss, samples: Samples, good: Rows) -> tf.Tensor:
        if gives_values_by_row(loss, samples.with_stand_ins(good)):
            return substitute(loss, samples, good, self.replacement, is_counted=True)
        # One number for the batch is taken for the mean of its samples, or under "sum" for their sum.
        value = _value_of_good(loss, samples, good)
        num, num_good = tf.cast(samples.num, value.dtype), tf.reduce_sum(tf.cast(good, value.dtype))
        if loss.reduction == "sum":
            return value + self.replacement * (num - num_good)
        return (value * num_good + self.replacement * (num - num_good)) / num

    def _raise(self, loss: keras.losses.Loss, samples: Samples, good: Rows, is_any_good: bool = True) -> tf.Tensor:
        if is_compiled_by_xla():
            if gives_values_by_row(loss, samples.with_stand_ins(good)):
                return substitute(loss, samples, good, float("nan"), is_counted=True)
            return samples.value(loss) + tf.cast(tf.where(tf.reduce_all(good), 0.0, float("nan")), loss.dtype)
        tensors = samples.tensors()

        def stop(good: tf.Tensor, *tensors: tf.Tensor) -> None:
            received = samples.with_tensors(tensors)
            raise NonFiniteError(_cause.message(self.name, self._unreduced, received, good))

        if tf.executing_eagerly():
            stop(good, *tensors)
        with tf.control_dependencies([tf.py_function(stop, [good, *tensors], Tout=[])]):
            return samples.value(loss)

    def _new_counter(self) -> SampleCount:
        said = _SAID[self.on_nonfinite]
        return SampleCount(f"{self.name}_{said}", did=said)

    def get_config(self) -> dict[str, Any]:
        return {
            "loss": keras.saving.serialize_keras_object(self._given),
            "on_nonfinite": self.on_nonfinite,
            "replacement": self.replacement,
            "labels_may_be_missing": self.labels_may_be_missing,
            "name": self.name,
            "reduction": "none" if _is_unreduced(self) else self.reduction,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Guarded:
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def _counters_of_model(model: Any) -> list[SampleCount]:
    """The counters of all guarded losses that a model was compiled with, each with a name of its own."""
    counters: list[SampleCount] = []
    guarded = {
        id(loss): (output, loss)
        for output, loss in _losses_by_output(model.loss)
        if isinstance(loss, Guarded) and loss.on_nonfinite != "raise"
    }
    for output, loss in guarded.values():
        strategy = model.distribute_strategy
        if loss.ignored.strategy is not strategy and strategy.num_replicas_in_sync > 1:
            with strategy.scope():
                loss._counter = loss._new_counter()
        if len(guarded) > 1:
            name = output if isinstance(output, str) else model.output_names[output]
            loss.ignored.name = f"{name}_{loss.ignored.did}"
        counters.append(loss.ignored)
    return counters


def _losses_by_output(losses: Any) -> list[tuple[str | int, Any]]:
    """What a model was compiled with, as pairs of the name or number of an output and a loss of it."""
    if isinstance(losses, dict):
        return [(output, loss) for output, part in losses.items() for loss in keras.tree.flatten(part)]
    if isinstance(losses, list | tuple):
        return [(output, loss) for output, part in enumerate(losses) for loss in keras.tree.flatten(part)]
    return [(0, losses)]


def _loss_of(loss: Any, reduction: str | None) -> keras.losses.Loss:
    """A loss of Keras made of anything that stands for one, with a reduction unless that is None."""
    if isinstance(loss, str):
        name: str | None = loss
        loss = keras.losses.get(loss)
    else:
        name = re.sub(r"\W+", "", getattr(loss, "__name__", type(loss).__name__))
    if not isinstance(loss, keras.losses.Loss):
        if not callable(loss):
            raise ValueError(f"`loss` must be a loss, the name of one, or a function. Received: {loss!r}.")
        return function_loss_class()(loss, name=name, reduction=reduction or "sum_over_batch_size")
    if reduction is not None:
        loss = twin(loss)
        loss.reduction = reduction
    return loss


def _is_unreduced(loss: keras.losses.Loss) -> bool:
    return loss.reduction in (None, "none")


def _value_of_good(loss: keras.losses.Loss, samples: Samples, good: Rows) -> tf.Tensor:
    """The loss of the samples that are good, or 0 if there are none."""
    value = samples.only(good).value(loss)
    # Not tf.cond: in an eager loop its branch of zeros would leave the predictions without a gradient.
    return tf.where(tf.reduce_any(good), value, tf.zeros_like(value))
