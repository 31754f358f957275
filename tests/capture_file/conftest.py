"""Failed steps of real trainings, each with its file and what an explanation of it gave."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import capture_file, replay
from nanguard.capture import Capture
from nanguard.guard import Watch, source

WAYS = ("graph", "xla", "eager", "schedule")


@dataclass(frozen=True)
class Saved:
    """A failed step, as it was, as it was explained, and as a file."""

    capture: Capture
    incident: dict[str, Any]
    path: Path


class Stopped(SystemExit):
    """What stops a training at its failed step."""


def captured(train: Callable[[], None]) -> Capture:
    """The failed step of a training."""
    captures: list[Capture] = []

    def on_capture(capture: Capture) -> bool:
        captures.append(capture)
        raise Stopped(1)

    watch = Watch(on_capture)
    watch.arm()
    try:
        with pytest.raises(Stopped):
            train()
    finally:
        watch.disarm()
    return captures[0]


class Log(keras.layers.Layer):
    """A layer that takes a logarithm too many."""

    def call(self, inputs: Any) -> Any:
        """Takes it."""
        return tf.math.log(inputs)


def data() -> tuple[np.ndarray, np.ndarray]:
    """Features of which one is 0, and labels."""
    x = np.random.default_rng(0).uniform(1, 2, (32, 4)).astype("float32")
    x[21, 2] = 0.0
    return x, x.sum(axis=1, keepdims=True)


def fit(*, jit_compile: bool = False, rate: Any = 0.01, has_log: bool = True) -> None:
    """Trains in `fit`."""
    keras.utils.set_random_seed(1)
    layers = [Log()] if has_log else []
    model = keras.Sequential([*layers, keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(rate), "mse", jit_compile=jit_compile)
    model.fit(*data(), batch_size=8, epochs=2, shuffle=False, verbose=0)


def loop() -> None:
    """Trains in an eager loop."""
    x, y = data()
    kernel = tf.Variable(tf.ones((4, 1)))
    for first in range(0, 32, 8):
        with tf.GradientTape() as tape:
            output = tf.math.log(x[first : first + 8]) @ kernel
            loss = tf.reduce_mean(tf.square(output - y[first : first + 8]))
        (grad,) = tape.gradient(loss, [kernel])
        kernel.assign_sub(0.01 * grad)


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that is not a number from the third step on."""

    def __call__(self, step: Any) -> Any:
        """The rate."""
        return 0.01 * tf.sqrt(2.0 - tf.cast(step, tf.float32))


TRAININGS: dict[str, Callable[[], None]] = {
    "graph": fit,
    "xla": lambda: fit(jit_compile=True),
    "eager": loop,
    "schedule": lambda: fit(rate=Falling(), has_log=False),
}


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Gives the failed step of each way of training, made once."""
    folder = tmp_path_factory.mktemp("captures")
    known: dict[str, Saved] = {}

    def step(way: str) -> Saved:
        if way not in known:
            capture = captured(TRAININGS[way])
            incident = replay.explain(capture)
            assert incident is not None
            path = folder / f"{way}.capture"
            about = capture_file.About("train.py", 2, ("a note",))
            capture_file.save(capture, str(path), is_users=source.is_users, about=about)
            known[way] = Saved(capture, incident.to_json(), path)
        return known[way]

    return step


Forging = Callable[..., Path]


@pytest.fixture
def forged(steps: Callable[[str], Saved], tmp_path: Path) -> Forging:
    """Gives a function that writes a step's file with one member changed: JSON by a function, others by bytes."""

    def forge(name: str, change: Callable[[Any], Any], way: str = "graph") -> Path:
        path = tmp_path / "forged.capture"
        with zipfile.ZipFile(steps(way).path) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.infolist():
                content = old.read(member)
                if member.filename == name:
                    if name.endswith(".json"):
                        document = json.loads(content)
                        content = json.dumps(change(document) or document).encode()
                    else:
                        content = change(content)
                new.writestr(member.filename, content, member.compress_type)
        return path

    return forge
