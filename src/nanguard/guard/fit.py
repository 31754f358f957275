"""A guard inside `fit`: the model's own train step made whole, and each batch in hand while its step runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from nanguard.backend import dispatch, seams
from nanguard.guard import diagnosis
from nanguard.guard import variables as script_variables
from nanguard.guard.event import Event
from nanguard.guard.measured import Measured, measurements
from nanguard.guard.updater import Updater

KEY = "nanguard"  # under which a step's measurements travel among its logs


Step = Callable[[Any], dict[str, Any]]


class GuardedFit:
    """What a guard puts in the place of a model's train function, for the time of one `fit`.

    Args:
        model: The compiled model.
        updater: Makes the updates.
        on_step: Called for every batch, which is None where only the device knows it; runs the step on it, and gives
            the logs.
    """

    def __init__(self, model: Any, updater: Updater, on_step: Step) -> None:
        self.model = model
        self.given: tuple[Any, ...] = ()  # what `fit` trains on
        self.plain_step = model.train_step
        self.plain_function = model.train_function
        self._updater = updater
        updater.makes_one_update = seams.is_keras_step(model)
        self._on_step = on_step
        self._function: Any = None
        self._call: Callable[[Any], dict[str, Any]] | None = None
        self._traced: Any = None  # the step as a `tf.function` of the batch, where there is one

    @staticmethod
    def release(model: Any) -> None:
        """Detaches what a guard has left attached whose `fit` ended by another callback's error."""
        left = getattr(model.__dict__.get("train_step"), "__self__", None)
        if isinstance(left, GuardedFit):
            left.detach()

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
        return {**logs, KEY: measurements(journal, ledger)}

    def prepare(self, batch: Any) -> None:
        """Traces the step, which makes what variables it makes. Under a strategy Keras has made them."""
        if self._traced is not None and batch is not None and self.model.distribute_strategy.num_replicas_in_sync == 1:
            self._traced.get_concrete_function(batch)

    def run(self, batch: Any) -> tuple[dict[str, Any], Measured | None]:
        """Runs the step on a batch; gives its logs, and what it measured if it made an update that could be seen."""
        assert self._call is not None
        logs = self._call(batch)
        numbers = logs.pop(KEY, None)
        return logs, None if numbers is None else Measured.of(numbers)

    def again(self, batch: Any) -> Any:
        """Runs the plain step on a batch, on each replica on its part."""
        return self.model.distribute_strategy.run(self.plain_step, args=(batch,))

    def capture(self, batch: Any, event: Event) -> Any:
        """Runs the plain step again under the watch; gives what `diagnosis.run_again` does."""
        again = self.again if self.model.run_eagerly else tf.function(self.again, autograph=False)
        fit = diagnosis.Fit(self.model, event.epoch, self.given)
        return diagnosis.run_again(lambda: again(batch), self.variables(), fit=fit)

    def variables(self) -> list[Any]:
        """All variables of the training."""
        found = [*self.model.variables]
        for optimizer in self._updater.optimizers or [self.model.optimizer]:
            found += script_variables.optimizer_variables(optimizer)
        for metric in self.model.metrics:
            found += metric.variables
        found += self._updater.clip_variables
        return list({id(v): v for v in found}.values())

    def _wrapped(self, function: Any) -> Any:
        model = self.model
        direct = seams.direct_train_function(model, function)
        if direct is function:  # the batches are pulled inside a graph
            return self._pulled_in_graph(function)

        self._traced = step = None if model.run_eagerly else dispatch.traced_step(function)
        self._call = (lambda batch: direct(iter((batch,)))) if step is None else dispatch.Shortcut(direct, step)
        pulled = seams.puller()

        def train_function(iterator: Iterator[Any]) -> Any:
            logs = None
            for batch in itertools.islice(pulled(iterator), model.steps_per_execution):
                logs = self._on_step(batch)
            if logs is None:
                raise StopIteration
            return logs

        train_function.is_nanguards = True  # type: ignore[attr-defined]
        return train_function

    def _pulled_in_graph(self, function: Any) -> Any:
        def train_function(iterator: Iterator[Any]) -> Any:
            self._call = lambda _: function(iterator)
            return self._on_step(None)

        return train_function
