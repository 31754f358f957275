"""The campaign: runs, kills, runs again, and counts."""

from __future__ import annotations

import collections
import hashlib
import itertools
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from kills import faults
from kills.trainings import TRAININGS, on_bad_rows, seeded
from nanguard.guard import _folders
from nanguard.guard.callback import Guard
from nanguard.guard.checkpoint import Checkpoint
from nanguard.guard.quarantine import Quarantine
from nanguard.guard.variables import raw

GUARDED = "guarded"
LIMIT = 120  # seconds that one process may take


@dataclass
class Counts:
    """What became of the kills at one place."""

    kills: int = 0
    exact: int = 0
    torn: int = 0


@dataclass
class Result:
    """All counts, by place, and what went wrong in words."""

    counts: dict[str, Counts] = field(default_factory=lambda: collections.defaultdict(Counts))
    problems: list[str] = field(default_factory=list)
    processes: int = 0


class Diary(keras.callbacks.Callback):
    """Writes down the digest of the model's state at the end of each epoch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{epoch} {digest(self.model)}\n")


def digest(model: keras.Model) -> str:
    """A fingerprint of weights, slots and layer state, to the bit."""
    found = hashlib.sha256()
    for variable in [*model.variables, *model.optimizer.variables]:
        found.update(raw(variable).numpy().tobytes())
    return found.hexdigest()


def run(count: int, seed: int, say: Callable[[str], None]) -> Result:
    """Makes so many kills.

    Args:
        count: Kills, of all kinds together.
        seed: Of the choice of moments.
        say: Is told of progress.
    """
    result = Result()
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        root = Path(folder)
        references = {}
        for name in (*TRAININGS, GUARDED):
            _in_child(root / "reference", lambda d, name=name: _train(name, d, None, None), result)
            references[name] = _entries(root / "reference" / "diary")
            references[name]["end"] = (root / "reference" / "end").read_text()
            shutil.rmtree(root / "reference")
        places, names = collections.deque(_places(count, draw)), itertools.cycle(TRAININGS)
        guarded = [faults.QUARANTINING] * math.ceil(count / 10)
        while guarded:
            left = _chain(root / "run", GUARDED, guarded[:2], references[GUARDED], draw, result)
            if len(left) == 2:
                break
            guarded = guarded[2:] + left
            say(f"{len(guarded)} kills left in quarantining, {len(result.problems)} problems")
        for _ in range(2 * count):  # a chain may make no kill
            if not places:
                break
            name = next(names)
            chain = [places.popleft() for _ in range(min(4, len(places)))]
            places += _chain(root / "run", name, chain, references[name], draw, result)
            say(f"{len(places)} kills left, {len(result.problems)} problems")
    return result


def _places(count: int, draw: random.Random) -> list[str]:
    """Where the kills are to be: one in ten in quarantining; the others half in training, half in saving."""
    count -= math.ceil(count / 10)  # those of quarantining
    saving = [faults.SAVING[index % len(faults.SAVING)] for index in range(count // 2)]
    places = saving + [faults.TRAINING] * (count - len(saving))
    draw.shuffle(places)
    return places


def _chain(
    folder: Path, name: str, places: list[str], reference: dict[str, str], draw: random.Random, result: Result
) -> list[str]:
    """Runs one training, killed at each of the places in turn, to its end; gives the places that did not come."""
    killed: list[str] = []
    left = list(places)
    for place in places:
        nth = draw.randint(1, 3)
        status = _in_child(folder, lambda d, p=place, n=nth: _train(name, d, p, n), result)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed.append(place)
            left.remove(place)
            result.counts[place].kills += 1
            result.counts[place].torn += _torn(folder / "checkpoints")
            result.counts[place].torn += sum(entry.problem is not None for entry in _entries_of(folder / "quarantine"))
        elif (folder / "end").exists():
            break  # it came to its end before its moment
        else:
            result.problems.append(f"{name}, {place}: status {status}: {_tail(folder)}")
    if not (folder / "end").exists():
        _in_child(folder, lambda d: _train(name, d, None, None), result)
    end = (folder / "end").read_text() if (folder / "end").exists() else "none"
    wrong = [line for line in _lines(folder / "diary") if reference.get(line[0]) != line[1]]
    if end == reference["end"] and not wrong:
        for place in killed:
            result.counts[place].exact += 1
    else:
        result.problems.append(f"{name} after {killed}: end {end == reference['end']}, epochs {wrong}: {_tail(folder)}")
    if "is damaged" in _tail(folder):
        result.problems.append(f"{name} after {killed}: a damaged checkpoint was found")
    shutil.rmtree(folder)
    return left


def _train(name: str, folder: Path, place: str | None, nth: int | None) -> None:
    """One process of a training, that is killed at the place."""
    train, every = TRAININGS.get(name, (on_bad_rows, 2))
    callbacks: list[Any] = [Checkpoint(folder / "checkpoints", every=every)] if folder.name != "reference" else []
    if name == GUARDED:
        callbacks.append(Guard(quarantine=folder / "quarantine", num_explained=0, verbose=False))
    callbacks.append(Diary(folder / "diary"))
    if place == faults.TRAINING:
        callbacks.append(faults.InBatch(3 * (nth or 1)))
    elif place == faults.QUARANTINING:
        faults.arm_quarantine(nth or 1)
    elif place is not None:
        faults.arm_save(place, nth or 1)
    model = seeded(train, callbacks)
    (folder / "end").write_text(digest(model))


def _in_child(folder: Path, act: Callable[[Path], None], result: Result) -> int:
    """Forks a process, which has TensorFlow imported and no op run; gives its exit status."""
    folder.mkdir(exist_ok=True)
    result.processes += 1
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        signal.alarm(LIMIT)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        act(folder)
        sys.stderr.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def _torn(checkpoints: Path) -> int:
    """How many folders that look like a checkpoint are not whole."""
    torn = 0
    for _, path in _folders.numbered(checkpoints):
        try:
            _folders.read(path)
        except ValueError:
            torn += 1
    return torn


def _entries_of(quarantine: Path) -> list[Any]:
    return Quarantine(quarantine).entries() if quarantine.is_dir() else []


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def _entries(path: Path) -> dict[str, str]:
    return {line[0]: line[1] for line in _lines(path)}


def _tail(folder: Path) -> str:
    path = folder / "log"
    return path.read_text(errors="replace")[-1500:] if path.exists() else ""
