"""A guard inside `fit`: the model's own train step made whole, and each batch in hand while its step runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nanguard.backend import dispatch, seams
from nanguard.guard.updater import Updater

KEY = "nanguard"  # under which a step's measurements travel among its logs


@dataclass(frozen=True)
class Measured:
    """What one step measured of itself.

    Args:
        loss: The loss of the batch alone.
        grad_norm: L2 norm of all gradients together, before they were clipped.
        clip: The smallest factor by which a gradient was multiplied.
        skipped: Steps that were refused since training began, this one included.
        overflows: Steps that the loss scale optimizer skipped.
        norms: L2 norm of each gradient, in the order of `Updater.names`.
    """

    loss: float
    grad_norm: float
    clip: float
    skipped: int
    overflows: int
    norms: tuple[float, ...] = ()


Step = Callable[[Any, Any], dict[str, Any]]


class GuardedFit:
    """What a guard puts in the place of a model's train function, for the time of one `fit`.

    Args:
        model: The compiled model.
        updater: Makes the updates.
        on_step: Called for every batch with a function that runs the step on it and gives its logs, and the batch,
            which is None where only the device knows it; gives the logs.
    """

    def __init__(self, model: Any, updater: Updater, on_step: Step) -> None:
        self.model = model
        self.plain_step = model.train_step
        self.plain_function = model.train_function
        self._updater = updater
        updater.makes_one_update = seams.is_keras_step(model)
        self._on_step = on_step
        self._function: Any = None

    def is_stale(self) -> bool:
        """Whether the model was compiled anew since."""
        return self.model.train_function is not self.plain_function

    def attach(self) -> None:
        """Replaces the train function."""
        if self._function is None:
            self.model.train_step = self._step
            try:
                self.model.make_train_function(force=True)
            finally:
                del self.model.train_step
            self._function = self._wrapped(self.model.train_function)
        self.model.train_step = self._step  # Keras 3.6 asks for it while it traces
        self.model.train_function = self._function

    def detach(self) -> None:
        """Puts the model's own functions back."""
        self.model.__dict__.pop("train_step", None)
        if self.model.train_function is self._function:
            self.model.train_function = self.plain_function

    def _step(self, data: Any) -> Any:
        logs, journal = self._updater.run(self.plain_step, data)
        ledger = self._updater.ledger
        if not isinstance(logs, dict) or ledger is None:
            return logs
        one, zero = tf.ones([]), tf.zeros([])
        measured = [
            zero if journal.loss is None else journal.loss,
            zero if journal.grad_norm is None else journal.grad_norm,
            one if journal.clip is None else journal.clip,
            tf.cast(ledger.skipped.read_value(), tf.float32),
            tf.cast(ledger.overflows.read_value(), tf.float32),
        ]
        return {**logs, KEY: tf.concat([tf.stack(measured), *journal.half_squares], 0)}

    def _wrapped(self, function: Any) -> Any:
        model = self.model
        strategy = model.distribute_strategy
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            return lambda iterator: self._on_step(lambda _: function(iterator), None)
        direct = seams.direct_train_function(model, function)
        if direct is function:  # the batches are pulled inside a graph
            return lambda iterator: self._on_step(lambda _: function(iterator), None)

        step = None if model.run_eagerly else dispatch.traced_step(function)
        run = (lambda batch: direct(iter((batch,)))) if step is None else dispatch.Shortcut(direct, step)

        def train_function(iterator: Iterator[Any]) -> Any:
            logs = None
            for batch in itertools.islice(iterator, model.steps_per_execution):
                logs = self._on_step(run, batch)
            if logs is None:
                raise StopIteration
            return logs

        train_function.is_nanguards = True  # type: ignore[attr-defined]
        return train_function


def measured(logs: dict[str, Any]) -> Measured | None:
    """Takes a step's measurements out of its logs; None if it made no update that could be seen."""
    numbers = logs.pop(KEY, None)
    if numbers is None:
        return None
    loss, grad_norm, clip, skipped, overflows, *half_squares = numbers.numpy().tolist()
    norms = tuple([(2.0 * half) ** 0.5 for half in half_squares])
    return Measured(loss, grad_norm, clip, int(skipped), int(overflows), norms)
