"""Brings a `fit` that has just begun to where a checkpoint was written."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from nanguard.backend import random, training
from nanguard.errors import UsageError
from nanguard.guard import _bystanders, _plain, _states


class FastForward:
    """Runs the epochs and batches that were done without a step: their data is pulled and dropped.

    So the input, whatever it is, stands where it stood. Callbacks and validation are mute meanwhile. On arrival all
    variables, the callbacks' states and the random states are set.

    Args:
        model: The model in `fit`.
        callback_list: Its list of callbacks.
        guide: The callback that drives this; the only one that is not muted.
        record: What the checkpoint's JSON file says.
        tensors: The checkpoint's tensors.
        epochs: What `fit` was asked for.
    """

    def __init__(
        self, model: Any, callback_list: Any, guide: Any, record: dict[str, Any], tensors: dict[str, Any], epochs: int
    ) -> None:
        self.has_arrived = False
        self.has_dropped = False  # the last call of the train function made no step
        self.record = record
        position = record["position"]
        self.epoch: int = position["epoch"]
        self.calls: int = position["calls"]
        is_done = record["finished"] and epochs <= record["epochs"]
        self.is_over = is_done or self.epoch >= epochs
        self._model = model
        self._list = callback_list
        self._callbacks = list(callback_list.callbacks)
        self._guide = guide
        self._tensors = tensors
        self._batch: Any = None
        self._here = (0, 0)
        self._random_before: dict[str, Any] = {}
        self._real: Any = None
        self._undo: list[Callable[[], None]] = []

    def start(self) -> None:
        """Mutes everything and takes the place of the train function; `fit` has told all callbacks that it begins."""
        model = self._model
        local = training.calling_fit()
        first = local.get("initial_epoch") or 0
        if self.is_over:
            # One batch is pulled all the same: without one the variables cannot be made.
            first = max(first, self._epochs() - 1)
            self._set_first(first)
        elif self.epoch - 1 > first and training.starts_each_epoch_afresh(local):
            self._set_first(self.epoch - 1)
        self._list.callbacks = [self._guide]
        self._undo.append(training.mute_validation(model))
        self._random_before = random.plain_state()

    def _epochs(self) -> int:
        return int(self._list.params["epochs"])

    def _set_first(self, epoch: int) -> None:
        training.set_first_epoch(self._model, epoch)
        self._undo.append(lambda: training.set_first_epoch(self._model, None))

    def on_epoch_begin(self, epoch: int) -> None:
        """Takes note of the epoch; at the first one the train function is replaced, so that no other wraps it."""
        self._here = (epoch, 0)
        if self._real is None:
            self._real = self._model.train_function
            self._model.train_function = self._pull
            self._undo.append(lambda: setattr(self._model, "train_function", self._real))

    def on_epoch_end(self, epoch: int) -> None:
        """Arrives, if the checkpoint was written at the end of this epoch."""
        if self.has_arrived:
            self.stop()
        elif epoch + 1 == self.epoch and not self.calls:
            self._arrive(None)
            self.stop()
        elif epoch >= self.epoch:
            self.stop()
            raise UsageError(
                f"The input must be the one that the checkpoint was written with. Received: {self._here[1]} calls of "
                f"the train function in an epoch, and the checkpoint stands behind call {self.calls}. To begin anew, "
                "give another directory."
            )

    def on_batch_end(self) -> None:
        """Ends the silence behind the batch with which it arrived: the other callbacks saw that one before the kill."""
        if self.has_arrived and not self.is_over:
            self.stop()

    def stop(self) -> None:
        """Gives everything back to whom it belongs."""
        if self._list.callbacks == [self._guide]:
            self._list.callbacks = self._callbacks
        self._give_back()

    def _give_back(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _pull(self, iterator: Any) -> Any:
        """Takes the place of the train function: pulls what it would pull."""
        epoch, calls = self._here
        self._here = (epoch, calls + 1)
        self.has_dropped = True
        try:
            self._batch = next(iterator)
            if self.is_over:
                self._arrive(None)
                self._model.stop_training = True
                return {}
            if (epoch, 0) >= (self.epoch, self.calls):
                # Nothing to drop: `fit` was told to begin here.
                self._arrive(epoch)
                self.stop()
                self.has_dropped = False
                return self._real(itertools.chain((self._batch,), iterator))
            for _ in range(self._model.steps_per_execution - 1):
                batch = next(iterator, None)
                if batch is None:
                    break
        except BaseException as error:
            if not isinstance(error, StopIteration):
                self.stop()
            raise
        if (epoch, calls + 1) == (self.epoch, self.calls):
            self._arrive(epoch)
            return _plain.decode(self.record["logs"])
        return {}

    def _arrive(self, epoch: int | None) -> None:
        """Sets all state; `epoch` is the one in whose middle the training goes on."""
        moved = {key for key, value in random.plain_state().items() if self._random_before.get(key) != value}
        self._build()
        self.has_arrived = True
        others = [callback for callback in self._callbacks if callback is not self._guide]
        if not self.is_over:
            self._give_back()
            for callback in others if epoch is not None else ():
                # What a callback sets up at the beginning of an epoch is set up; its state is put over that.
                callback.on_epoch_begin(epoch, {})
        self._put(others)
        # A generator that the input draws from stands where the input has left it: its threads may be ahead of the
        # training by another number of batches than they were then.
        wanted = _plain.decode(self.record["random"])
        random.restore_plain({key: value for key, value in wanted.items() if key not in moved})
        self._model.stop_training = bool(self.record["stop_training"]) and not self.record["finished"]

    def _groups(self) -> dict[str, list[Any]]:
        return groups(self._model, self._callbacks)

    def _build(self) -> None:
        """Makes all variables that the checkpoint has and this process not yet."""
        wanted = self.record["variables"]
        if any(entry["key"].endswith("global_seed_generator_state") for entry in wanted):
            training.make_global_generator()
        if _states.fits(self._groups(), wanted):
            training.build(self._model, self._batch)
        if _states.fits(self._groups(), wanted):
            # A step makes what Keras cannot make without; all that it changes is set afterwards.
            muted = [callback.nanguard_muted() for callback in self._callbacks if hasattr(callback, "nanguard_muted")]
            for context in muted:
                context.__enter__()
            try:
                self._real(iter([self._batch] * self._model.steps_per_execution))
            finally:
                for context in muted:
                    context.__exit__(None, None, None)
        problem = _states.fits(self._groups(), wanted)
        if problem:
            self.stop()
            raise UsageError(
                f"The model, the optimizer and the metrics must be those that the checkpoint was written with. "
                f"Received: {problem}. To begin anew, give another directory."
            )

    def _put(self, others: list[Any]) -> None:
        _states.put(self._groups(), self.record["variables"], self._tensors)
        arrays = {name: tensor.numpy() for name, tensor in self._tensors.items() if name.startswith("callbacks/")}
        for name, callback in _bystanders.named(others).items():
            if hasattr(callback, "restore_nanguard_state"):
                if name in self.record["guards"]:
                    callback.restore_nanguard_state(self.record["guards"][name])
            elif name in self.record["callbacks"]:
                _bystanders.put(callback, self.record["callbacks"][name], arrays)


def groups(model: Any, callbacks: list[Any]) -> dict[str, list[Any]]:
    """Gives all variables of a `fit`: those of the model, and those that callbacks name as theirs."""
    others = [variable for callback in callbacks for variable in getattr(callback, "nanguard_variables", ())]
    return _states.of([model], [], [*others, *training.global_variables()])
