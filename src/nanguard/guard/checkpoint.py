"""Checkpoints from which a killed training goes on exactly: only finite states, whole or not at all."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import nanguard
from nanguard.backend import random, seams, training
from nanguard.errors import UsageError
from nanguard.guard import _bystanders, _folders, _plain, _resume, _states

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Position:
    """Where a training stood when a checkpoint was written.

    Args:
        step: Batches that were trained on, over all epochs; in a custom loop what `save` was given.
        epoch: Epoch that goes on, from 0; 0 in a custom loop.
        batch: Batches of that epoch that were trained on; 0 in a custom loop.
        finished: Whether the training had come to its end.
        extra: What `save` was given as `extra`.

    Example:

    >>> Position(step=412, epoch=3, batch=10).epoch
    3
    """

    step: int
    epoch: int = 0
    batch: int = 0
    finished: bool = False
    extra: Any = field(default=None)


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Checkpoints of a training, from which it goes on exactly where it was killed.

    As a callback of `fit` it writes the training's state now and then; the same script, run again, finds the newest
    checkpoint, and goes on. Weights, optimizer slots, layer state, seed generators, metrics, the random states of
    Python, NumPy and TensorFlow, the epoch, the batch, the learning rate, the history, what `EarlyStopping`,
    `ReduceLROnPlateau` and other callbacks remember, and the guard's statistics are set; the input is brought to
    where it stood by pulling and dropping the batches that were done. The weights at the end are, bit for bit, those
    of a run that was not killed. That needs a script that does the same each time: call `keras.utils.set_random_seed`
    first. docs/checkpoints.md has the rest.

    A training that came to its end is not trained again: its last state is set, and `fit` returns its history. With
    more `epochs` than it was given before, it goes on.

    A checkpoint is a folder, `checkpoint-00000007`, with the tensors in TensorFlow's own format
    (`tf.train.load_checkpoint` reads them) and a JSON file. It is written under another name, flushed and renamed, so
    that a kill leaves no torn one. A state with a NaN or an infinity in weights, slots or layer state is not written:
    a line says so, and the last good checkpoint stays.

    Args:
        directory: Folder of this training's checkpoints, made if it is not there. One `fit` and one process each: a
            script that calls `fit` twice gives two.
        keep: How many of the newest checkpoints stay, `>= 1`. Defaults to 3: if a disk damages the newest, the one
            before it is taken.
        every: When one is written: "epoch", at the end of each; an integer, each time that so many batches were
            trained on; or a time such as "30s", "10m" or "2h" after the last, at the next batch. Defaults to "epoch",
            whose cost is easily foreseen. The end of the training is always written.

    Raises:
        UsageError: If an argument is out of range; and from `fit`, if the model, the optimizer or the input is not
            the one that the checkpoint was written with.

    Example:

    >>> import tempfile
    >>> def train(epochs):
    ...     keras.utils.set_random_seed(1)
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     x, y = np.ones((8, 2)), np.ones((8, 1))
    ...     return model.fit(x, y, epochs=epochs, verbose=0, callbacks=[Checkpoint(folder)]).epoch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train(epochs=2), train(epochs=3)
    ([0, 1], [0, 1, 2])
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 3, every: int | str = "epoch") -> None:
        super().__init__()
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise UsageError(f"`keep` must be an integer of at least 1. Received: keep={keep!r}. To keep few, give 1.")
        self.directory = Path(directory)
        self.keep = keep
        self.every = every
        self._steps, self._seconds = _rhythm(every)
        self._last: _Last | None = None
        self._refused = False

    # Keras calls the callbacks of a batch in other threads unless one of them has this method.
    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Does nothing: the state is written when all other callbacks have seen the batch."""

    def set_params(self, params: dict[str, Any]) -> None:
        """Joins the `fit` that begins: called by Keras, before any callback is told of it."""
        super().set_params(params)
        callbacks = training.callback_list_of(self)
        if callbacks is None or "epochs" not in params:
            return
        if self._last is not None:
            self._last.leave()
        twin = next((c for c in callbacks.callbacks if isinstance(c, Checkpoint) and c is not self), None)
        if twin is not None:
            raise UsageError(
                "A `fit` must have one Checkpoint. Received: two, at "
                f"{str(self.directory)!r} and {str(twin.directory)!r}. To keep more checkpoints, raise `keep`."
            )
        self._last = _Last(self, callbacks)
        # Not when `fit` begins: by then a logger may have begun its file anew.
        self._last.look()
        callbacks.callbacks.append(self._last)

    def save(self, step: int, model: Any, optimizer: Any = None, *, extra: Any = None) -> Path | None:
        """Writes a checkpoint of a custom loop.

        Weights, optimizer slots, layer state, seed generators, metrics that are attributes of the model, and the
        random states are written. The position of the input is the loop's own matter: put what tells it into `extra`,
        or pull and drop `step` batches.

        Args:
            step: Steps that were made, `>= 0`.
            model: The model, or a list of several.
            optimizer: The optimizer, or a list of several; None if the model has it.
            extra: Plain values (numbers, strings, lists, tuples, dicts) to be given back by `restore`.

        Returns:
            The checkpoint's folder; None if the state is not finite and was not written.

        Raises:
            UsageError: If `extra` holds anything but plain values.

        Example:

        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> optimizer = keras.optimizers.Adam()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Checkpoint(folder)
        ...     checkpoint.save(7, model, optimizer, extra={"best": 0.5}).name
        ...     checkpoint.restore(model, optimizer).extra
        'checkpoint-00000001'
        {'best': 0.5}
        """
        models, optimizers = _listed(model), _listed(optimizer)
        _build_optimizers(models, optimizers)
        try:
            encoded = _plain.encode(extra)
        except _plain.NotPlainError as error:
            raise UsageError(
                f"`extra` must hold plain values. Received: {error}. To keep variables, make them the model's."
            ) from None
        groups = _states.of(models, optimizers, training.global_variables())
        place = {"step": int(step), "epoch": 0, "batch": 0, "calls": 0}
        return self._write(groups, {}, {"position": place, "finished": False, "extra": encoded}, f"step {step}")

    def restore(self, model: Any, optimizer: Any = None) -> Position | None:
        """Sets a model and its optimizer to the newest checkpoint.

        The model must be built: called once, or made with its input's shape.

        Args:
            model: The model, or a list of several, as `save` was given. optimizer: The optimizer, or a list of
            several, as `save` was given. To read a checkpoint that `fit` wrote, compile the
                model as it was and leave this out.

        Returns:
            Where the training stood; None if there is no checkpoint yet.

        Raises:
            UsageError: If model or optimizer are not those that the checkpoint was written with.

        Example:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(Checkpoint(folder).restore(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])))
        None
        """
        _folders.sweep(self.directory)
        found = self._newest()
        if found is None:
            return None
        record, tensors, _ = found
        models, optimizers = _listed(model), _listed(optimizer)
        _build_optimizers(models, optimizers)
        groups = _states.of(models, optimizers, training.global_variables())
        wanted = record["variables"]
        problem = _states.fits(groups, wanted)
        if problem and "callbacks" in record:
            # One that `fit` wrote: the metrics and the guard's own variables are of no use outside it.
            wanted = [entry for entry in wanted if entry["key"].startswith(("model/", "optimizer/"))]
            groups = {name: groups[name] for name in ("model", "optimizer")}
            problem = _states.fits(groups, wanted)
        if problem:
            raise UsageError(
                f"The model and the optimizer must be those that the checkpoint was written with. Received: {problem}. "
                "To begin anew, give another directory."
            )
        _states.put(groups, wanted, tensors)
        random.restore_plain(_plain.decode(record["random"]))
        place = record["position"]
        extra = _plain.decode(record.get("extra"))
        return Position(place["step"], place["epoch"], place["batch"], record["finished"], extra)

    def _newest(self) -> tuple[dict[str, Any], dict[str, Any], Path] | None:
        """The newest checkpoint that is whole."""
        for _, path in reversed(_folders.numbered(self.directory)):
            try:
                return _folders.read(path), _states.load(path), path
            except ValueError as error:
                _bystanders.say(f"{path} is damaged ({error}); the checkpoint before it is taken")
        return None

    def _write(
        self, groups: dict[str, list[Any]], arrays: dict[str, Any], record: dict[str, Any], where: str
    ) -> Path | None:
        snapshot = _states.Snapshot(groups, arrays)
        problem = snapshot.nonfinite()
        if problem is not None:
            if not self._refused:
                _bystanders.say(f"no checkpoint at {where}: {problem}; the last good one stays")
            self._refused = True
            return None
        self._refused = False
        whole = {
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": _versions(),
            **record,
            "seed": training.global_seed(),
            "random": _plain.encode(random.plain_state()),
            "variables": snapshot.entries,
        }
        return _folders.write(self.directory, whole, snapshot.write, self.keep)


class _Last(keras.callbacks.Callback):  # type: ignore[misc]
    """The last callback of the list: what it writes, all others have seen; what it reads, none has yet.

    Args:
        owner: The user's checkpoint.
        callbacks: The list of callbacks of the `fit`.
    """

    def __init__(self, owner: Checkpoint, callbacks: Any) -> None:
        super().__init__()
        self._owner = owner
        self._list = callbacks
        self._record: dict[str, Any] | None = None
        self._tensors: dict[str, Any] = {}
        self._forward: _resume.FastForward | None = None
        self._before: dict[str, dict[str, Any]] = {}
        self._epoch = self._calls = self._batch = 0
        self._steps = self._saved_step = 0
        self._saved_at = 0.0
        self.params = callbacks.params
        self.set_model(owner.model or callbacks.model)

    def look(self) -> None:
        """Finds the newest checkpoint, and has the loggers go on behind it."""
        _folders.sweep(self._owner.directory)
        found = self._owner._newest()
        if found is None:
            return
        self._record, self._tensors, path = found
        if "callbacks" not in self._record:
            raise UsageError(
                f"`directory` must hold checkpoints of `fit`. Received: {str(path)!r}, which a custom loop wrote. "
                "To begin anew, give another directory."
            )
        _bystanders.continue_logs(self._list.callbacks, self._record["log_sizes"])
        self._tell(path)

    def _tell(self, path: Path) -> None:
        record = self._record
        assert record is not None
        place, epochs = record["position"], self.params["epochs"]
        if (record["finished"] and epochs <= record["epochs"]) or place["epoch"] >= epochs:
            _bystanders.say(
                f"{path} is the end of this training: its state is set and nothing is trained. To train on, raise "
                "epochs; to train anew, give another directory"
            )
            return
        _bystanders.say(f"goes on from {path}: epoch {place['epoch'] + 1}, behind batch {place['batch']}")
        if training.global_seed() is None:
            _bystanders.say(
                "no seed is set, so the data comes in another order than before; call keras.utils.set_random_seed first"
            )
        elif record["seed"] != training.global_seed():
            _bystanders.say(f"the seed was {record['seed']} and is {training.global_seed()}: the run goes on otherwise")
        if record["versions"] != _versions():
            then = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
            _bystanders.say(f"the checkpoint was written with {then}: bits may differ")

    def leave(self) -> None:
        """Gives everything back if a `fit` ended with an error."""
        if self._forward is not None:
            self._forward.stop()
        if self in self._list.callbacks:
            self._list.callbacks.remove(self)

    def _others(self) -> dict[str, Any]:
        mine = (self, self._owner)
        return _bystanders.named([callback for callback in self._list.callbacks if callback not in mine])

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._saved_at = time.monotonic()
        self._before = {name: _bystanders.state(callback, {}, name) for name, callback in self._others().items()}
        if self._record is None:
            return
        place = self._record["position"]
        self._steps = self._saved_step = place["step"]
        self._forward = _resume.FastForward(
            self.model, self._list, self, self._record, self._tensors, self.params["epochs"]
        )
        self._forward.start()
        self._record, self._tensors = None, {}

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._calls, self._batch = epoch, 0, 0
        if self._is_forwarding():
            assert self._forward is not None
            self._forward.on_epoch_begin(epoch)

    def _is_forwarding(self) -> bool:
        return self._forward is not None and not self._forward.has_arrived

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._forward is not None:
            self._forward.has_dropped = False

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._calls += 1
        trained, self._batch = batch + 1 - self._batch, batch + 1
        if self._forward is not None and self._forward.has_dropped:
            self._forward.on_batch_end()
            return
        self._steps += trained
        if self._is_due():
            self._save(self._epoch, self._calls, self._batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        forward = self._forward
        if forward is not None and (forward.is_over or not forward.has_arrived):
            forward.on_epoch_end(epoch)
            return
        if self._owner.every == "epoch" or self._is_due():
            self._save(epoch + 1, 0, 0, None)
        self._epoch, self._calls, self._batch = epoch + 1, 0, 0

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        is_over = self._forward is not None and self._forward.is_over
        if not is_over and not self._is_forwarding():
            self._save(self._epoch, self._calls, self._batch, logs, finished=True)
        self.leave()
        self._owner._last = None

    def _is_due(self) -> bool:
        if self._owner._steps is not None:
            return self._steps - self._saved_step >= self._owner._steps
        return self._owner._seconds is not None and time.monotonic() - self._saved_at >= self._owner._seconds

    def _save(self, epoch: int, calls: int, batch: int, logs: Any, *, finished: bool = False) -> None:
        arrays: dict[str, Any] = {}
        callbacks, guards = {}, {}
        for name, callback in self._others().items():
            if hasattr(callback, "nanguard_state"):
                guards[name] = callback.nanguard_state()
            else:
                callbacks[name] = _bystanders.changed(callback, self._before.get(name, {}), arrays, name)
        record = {
            "position": {"step": self._steps, "epoch": epoch, "batch": batch, "calls": calls},
            "finished": finished,
            "epochs": self.params["epochs"],
            "stop_training": bool(self.model.stop_training),
            "logs": _plain_logs(logs),
            "callbacks": callbacks,
            "guards": guards,
            "log_sizes": _bystanders.log_sizes(list(self._others().values())),
        }
        where = f"epoch {epoch + 1}, batch {batch}" if batch else f"the end of epoch {epoch}"
        self._owner._write(_resume.groups(self.model, self._list.callbacks), arrays, record, where)
        self._saved_step = self._steps
        self._saved_at = time.monotonic()


def _rhythm(every: int | str) -> tuple[int | None, float | None]:
    """Steps or seconds between two checkpoints; neither for "epoch"."""
    if every == "epoch":
        return None, None
    if isinstance(every, int) and not isinstance(every, bool) and every >= 1:
        return every, None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", every) if isinstance(every, str) else None
    if found is None:
        raise UsageError(
            f'`every` must be "epoch", a number of batches, or a time. Received: every={every!r}. '
            'Give for example 1000 or "10m".'
        )
    return None, float(found[1]) * _UNITS[found[2]]


def _plain_logs(logs: Any) -> Any:
    try:
        return _plain.encode(dict(logs or {}))
    except (_plain.NotPlainError, TypeError):
        return _plain.encode({})


def _listed(things: Any) -> list[Any]:
    if things is None:
        return []
    return list(things) if isinstance(things, list | tuple) else [things]


def _build_optimizers(models: Iterable[Any], optimizers: Iterable[Any]) -> None:
    """Makes the slots of optimizers that have made no step yet; those of a single model only can be known."""
    trained = [variable for model in models for variable in model.trainable_variables]
    for optimizer in optimizers:
        if not getattr(optimizer, "built", True):
            seams.build_optimizer(optimizer, trained)


def _versions() -> dict[str, str]:
    return {"nanguard": nanguard.__version__, "tensorflow": tf.__version__, "keras": keras.__version__}
