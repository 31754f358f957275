"""Where a process kills itself: each fault waits for its moment and sends SIGKILL."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from nanguard.guard import _folders, _states, quarantine

TRAINING = "in a batch"
SAVING = (
    "save: before the tensors",
    "save: while the tensors are written",
    "save: tensors without a record",
    "save: half a record",
    "save: before the flush",
    "save: before the rename",
    "save: after the rename",
    "save: while an old one is removed",
)
QUARANTINING = "while a batch is quarantined"


def kill() -> None:
    """Ends this process as the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_within(seconds: float) -> None:
    """Ends this process at a random moment, while it goes on with what it does."""
    timer = threading.Timer(random.SystemRandom().uniform(0, seconds), kill)
    timer.daemon = True
    timer.start()


class InBatch(keras.callbacks.Callback):
    """Kills at a random moment around a batch.

    Args:
        after: Batches that are trained first.
    """

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = iter(range(after))  # no plain value: a checkpoint must not bring it back

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if next(self._left, None) is None:
            kill_within(0.004)


def arm_save(where: str, nth: int) -> None:
    """Has the `nth` save of this process end in a kill at the place that `where` names."""
    left = iter(range(nth - 1))

    def is_due() -> bool:
        return next(left, None) is None

    if where == SAVING[0]:
        _before(_states.Snapshot, "write", is_due, kill)
    elif where == SAVING[1]:
        _before(_states.Snapshot, "write", is_due, lambda: kill_within(0.002))
    elif where == SAVING[2]:
        _after(_states.Snapshot, "write", is_due, kill)
    elif where == SAVING[3]:
        _halve_record(is_due)
    elif where == SAVING[4]:
        _before(_folders, "_flush", is_due, kill)
    elif where == SAVING[5]:
        _before(_folders.os, "rename", is_due, kill)
    elif where == SAVING[6]:
        _after(_folders.os, "rename", is_due, kill)
    else:
        _halve_removal(is_due)


def arm_quarantine(nth: int) -> None:
    """Has the `nth` batch that this process sets aside end in a kill while it is written."""
    left = iter(range(nth - 1))
    _before(quarantine.Quarantine, "_put", lambda: next(left, None) is None, lambda: kill_within(0.003))


def _before(owner: Any, name: str, is_due: Callable[[], bool], act: Callable[[], None]) -> None:
    real = getattr(owner, name)

    def stand_in(*args: Any, **options: Any) -> Any:
        if is_due():
            act()
        return real(*args, **options)

    setattr(owner, name, stand_in)


def _after(owner: Any, name: str, is_due: Callable[[], bool], act: Callable[[], None]) -> None:
    real = getattr(owner, name)

    def stand_in(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        if is_due():
            act()
        return found

    setattr(owner, name, stand_in)


def _halve_record(is_due: Callable[[], bool]) -> None:
    real = Path.write_text

    def stand_in(path: Path, text: str, *args: Any, **options: Any) -> int:
        if path.name == _folders.RECORD and is_due():
            real(path, text[: len(text) // 2], *args, **options)
            kill()
        return real(path, text, *args, **options)

    Path.write_text = stand_in  # type: ignore[assignment,method-assign]


def _halve_removal(is_due: Callable[[], bool]) -> None:
    real = _folders.shutil.rmtree

    def stand_in(path: Any, *args: Any, **options: Any) -> None:
        if Path(path).name.startswith(".removing") and is_due():
            next(Path(path).iterdir()).unlink()
            kill()
        real(path, *args, **options)

    _folders.shutil.rmtree = stand_in  # type: ignore[assignment]
