"""`nanguard.GuardedOptimizer`: any Keras optimizer, for loops of one's own, that never applies a NaN."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import tensorflow as tf

from nanguard import clipping
from nanguard.backend import updates
from nanguard.errors import UsageError
from nanguard.guard.journal import HOOKS, THREAD, Journal
from nanguard.guard.teller import Teller
from nanguard.guard.updater import Updater


@keras.saving.register_keras_serializable(package="nanguard")
class GuardedOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Makes the updates of another optimizer, and refuses those of a step that is not finite.

    A step begins with its outermost `tf.GradientTape`. If its loss, a gradient, what it wrote into a layer, a weight
    or a slot is not finite, the update is not made, and what the step has written since (moving statistics, seeds) is
    put back bit for bit. What a refused batch then adds to a Keras metric is taken back too. It works in and out of
    `tf.function`, under XLA, in mixed precision, with gradient accumulation and distribution strategies. On finite
    gradients not one bit changes.

    Wrap it around a `LossScaleOptimizer`, not the other way round: an ordinary overflow stays that optimizer's
    business, and its scale gets a floor of 1.

    Args:
        inner_optimizer: The Keras optimizer that makes the updates.
        clip: How gradients are clipped: a clip of `nanguard.clipping`, its name, or a number for the global norm.
            Defaults to no clipping.
        max_in_row: Refused steps in a row before the training is stopped by a `NonFiniteError`, `>= 1`. Inside of
            `tf.function` it comes as TensorFlow's `UnknownError` with the same words. Under XLA nothing can stop the
            step, and no NaN is applied either: look at `in_row`.
        verbose: Whether to print a line for each refused step (under XLA: one line when the process ends), to stderr.
        name: Name.

    Attributes:
        skipped: Reads like a variable, int64 scalar: steps refused so far. In a step that a `Guard` watches too, the
            guard counts.
        in_row: Tensor, int64 scalar: steps refused in a row, up to now.

    Example:

    >>> weight = keras.Variable([1.0, 2.0])
    >>> optimizer = ng.GuardedOptimizer(keras.optimizers.SGD(1.0))
    >>> optimizer.apply([tf.constant([0.5, float("nan")])], [weight])
    >>> optimizer.apply([tf.constant([0.5, 0.5])], [weight])
    >>> weight.numpy(), int(optimizer.skipped)
    (array([0.5, 1.5], dtype=float32), 1)
    """

    is_guarded = True

    def __init__(
        self,
        inner_optimizer: Any,
        *,
        clip: Any = None,
        max_in_row: int = 10,
        verbose: bool = True,
        name: str | None = None,
    ) -> None:
        if not isinstance(max_in_row, int) or max_in_row < 1:
            raise UsageError(f"`max_in_row` must be at least 1. Received: max_in_row={max_in_row!r}.")
        if inner_optimizer is None:
            raise UsageError("`inner_optimizer` must be a Keras optimizer, or its name. Received: None.")
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            inner_optimizer = keras.optimizers.get(inner_optimizer)
        super().__init__(learning_rate=0.0, name=name or f"guarded_{inner_optimizer.name}")
        self.inner_optimizer = inner_optimizer
        self.clip = clipping.get(clip)
        self.max_in_row = max_in_row
        self.verbose = verbose
        self._updater = Updater(self.clip)
        self._teller = Teller("GuardedOptimizer", self._updater, max_in_row=max_in_row, is_silent=not verbose)
        weakref.finalize(self, self._teller.tell_the_rest)
        HOOKS.acquire()
        weakref.finalize(self, HOOKS.release)

    def build(self, variables: list[Any]) -> None:
        """Makes the variables of the inner optimizer."""
        self._updater.prepare(self.inner_optimizer, list(variables))
        super().build(variables)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Applies gradients if the step is finite.

        Args:
            grads: One for each variable: a tensor, `tf.IndexedSlices` or None.
            trainable_variables: Weights. Defaults to those that the optimizer was built for.
        """
        inner = self.inner_optimizer
        grads = list(grads)
        if trainable_variables is None:
            trainable_variables = self._updater.layout.get(id(inner), [])
        variables = list(trainable_variables)
        if variables and id(inner) not in self._updater.layout:
            with tf.init_scope():
                self.build(variables)
            self.built = True
        if THREAD.is_busy:
            return inner.apply(grads, variables)
        journal = THREAD.journal
        if journal is None or not journal.awaits_update():
            journal = THREAD.journal = Journal()
        # Inside of a step that a `Guard` watches, the guard judges and counts.
        update = journal.update or self._updater.update
        made = update(inner.apply, inner, grads, variables, journal, self._updater.clip_of(inner))
        if journal.update is None:
            self._teller.after(made, inner)
        return None

    @property
    def skipped(self) -> Any:
        """Steps refused so far: it reads like a variable, int64 scalar."""
        return self._updater.counters().skipped

    @property
    def in_row(self) -> Any:
        """Steps refused in a row up to now: a tensor, int64 scalar."""
        return self._updater.counters().row(self.inner_optimizer)

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's variables."""
        return list(self.inner_optimizer.variables)

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        """Updates that went ahead: the inner optimizer's counter."""
        return updates.iterations(self.inner_optimizer)

    @property
    def dynamic_scale(self) -> Any:
        """The dynamic loss scale of the inner optimizer, or None."""
        return getattr(self.inner_optimizer, "dynamic_scale", None)

    def scale_loss(self, loss: Any) -> Any:
        """Scales the loss as the inner optimizer does."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Does what the inner optimizer does at the end of a training."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        """Gives the arguments that make this optimizer."""
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "max_in_row": self.max_in_row,
            "verbose": self.verbose,
            "clip": None if self.clip is None else keras.saving.serialize_keras_object(self.clip),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> GuardedOptimizer:
        """Makes the optimizer of a `get_config()`."""
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(config.pop("inner_optimizer"), custom_objects=custom_objects)
        clip = config.pop("clip", None)
        if clip is not None:
            clip = keras.saving.deserialize_keras_object(clip, custom_objects=custom_objects)
        return cls(inner, clip=clip, **config)
