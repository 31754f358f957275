"""The training scripts whose speed is measured; each trains in segments, one for every turn that it is granted.

Run by `benchmarks.overhead`, plainly or under `nanguard run`:

    python benchmarks/workloads.py mlp --steps 200

A line on stdin grants one segment; the answer is one JSON line on stdout. The end of stdin ends the training.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

BAD_STEP = 3
CLASSES = 10


class Turns:
    """Waits for a turn, measures the segment that is trained in it, and reports the figures.

    Args:
        steps: Number of training steps in a segment.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.cpu = self.wall = 0.0

    def wait(self) -> bool:
        """Blocks until the next turn; gives False when there is none."""
        if not sys.stdin.readline():
            return False
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return True

    def report(self) -> None:
        """Prints what the segment took, per step and in seconds, and what the process has taken so far."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        figures = {
            "cpu": cpu / self.steps,
            "wall": wall / self.steps,
            "finished_at": time.time(),
            "cpu_since_start": time.process_time(),
            "peak_memory": peak_memory(),
        }
        print(json.dumps(figures), flush=True)


class TakeTurns(keras.callbacks.Callback):
    """Makes every epoch of `fit` one segment.

    A segment ends where the next epoch begins, so that what other callbacks do at the end of an epoch is counted. There
    is no hook per batch: it would make `fit` wait for every step's logs, which no plain `fit` does.
    """

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.turns = turns

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Reports the epoch before and waits for the next turn."""
        if epoch:
            self.turns.report()
        if not self.turns.wait():
            self.model.stop_training = True


class HandOver(keras.callbacks.Callback):
    """Says when the batch with the NaN row is handed to training."""

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Prints the time just before the bad step."""
        if batch == BAD_STEP:
            print(json.dumps({"handed_over_at": time.time()}), flush=True)


def peak_memory() -> int | None:
    """Gives the largest resident size of this process in KiB, or None where the system does not tell it."""
    # Not `ru_maxrss`: on Linux that starts from the size of the process that started this one.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
    return int(fields["VmHWM"].split()[0])


def classification(shape: tuple[int, ...], num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws standard normal rows with labels that a linear model can learn, so that training stays healthy."""
    random = np.random.default_rng(0)
    x = random.standard_normal((num_rows, *shape), dtype="float32")
    flat = x.reshape(num_rows, -1)
    y = np.argmax(flat @ random.standard_normal((flat.shape[1], CLASSES), dtype="float32"), axis=-1)
    return x, y.astype("int32")


def mlp() -> tuple[keras.Model, int, tuple[int, ...]]:
    """Two hidden layers of 128 on 64 features, batches of 64."""
    layers = [keras.layers.Dense(128, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(CLASSES)]), 64, (64,)


def mobilenet() -> tuple[keras.Model, int, tuple[int, ...]]:
    """MobileNetV2 on 96x96 images, batches of 16."""
    shape = (96, 96, 3)
    return keras.applications.MobileNetV2(shape, weights=None, classes=CLASSES, classifier_activation=None), 16, shape


def lstm() -> tuple[keras.Model, int, tuple[int, ...]]:
    """An LSTM of 64 units over 30 steps of 16 features, batches of 32."""
    shape = (30, 16)
    return keras.Sequential([keras.Input(shape), keras.layers.LSTM(64), keras.layers.Dense(CLASSES)]), 32, shape


def transformer() -> tuple[keras.Model, int, tuple[int, ...]]:
    """Two pre-norm blocks with four heads over 32 tokens of width 64, batches of 32."""
    shape = (32, 64)
    inputs = x = keras.Input(shape)
    for _ in range(2):
        normed = keras.layers.LayerNormalization()(x)
        x = x + keras.layers.MultiHeadAttention(num_heads=4, key_dim=16, dropout=0.1)(normed, normed)
        hidden = keras.layers.Dense(256, activation="gelu")(keras.layers.LayerNormalization()(x))
        x = x + keras.layers.Dense(64)(hidden)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs), 32, shape


def cnn() -> tuple[keras.Model, int, tuple[int, ...]]:
    """Two convolutions on 28x28 images, batches of 128."""
    shape = (28, 28, 1)
    layers = [
        keras.Input(shape),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
        keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(CLASSES),
    ]
    return keras.Sequential(layers), 128, shape


def wide_mlp() -> tuple[keras.Model, int, tuple[int, ...]]:
    """Two hidden layers of 512 on 256 features, batches of 128."""
    layers = [keras.layers.Dense(512, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((256,)), *layers, keras.layers.Dense(CLASSES)]), 128, (256,)


Build = Callable[[], tuple[keras.Model, int, tuple[int, ...]]]


def fit(build: Build, turns: Turns, *, with_bad_row: bool) -> None:
    """Trains with `fit` on NumPy arrays."""
    model, batch_size, shape = build()
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    x, y = classification(shape, turns.steps * batch_size)
    if with_bad_row:
        x[BAD_STEP * batch_size + 1] = np.nan
        model.fit(x, y, batch_size=batch_size, shuffle=False, callbacks=[HandOver()], verbose=0)
        return  # not reached under `nanguard run`, which stops at the bad step
    model.fit(x, y, batch_size=batch_size, epochs=1_000_000, callbacks=[TakeTurns(turns)], verbose=0)


def loop(build: Build, turns: Turns, *, eagerly: bool) -> None:
    """Trains in a loop of its own, over a `tf.data` pipeline, with a step in a `tf.function` or eagerly."""
    model, batch_size, shape = build()
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)
    data = classification(shape, 20 * batch_size)
    batches = iter(tf.data.Dataset.from_tensor_slices(data).cache().batch(batch_size).repeat().prefetch(2))

    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    train_step = step if eagerly else tf.function(step)
    while turns.wait():
        for _ in range(turns.steps):
            loss = train_step(*next(batches))
        float(loss)
        turns.report()


FIT = {"mlp": mlp, "mobilenet": mobilenet, "lstm": lstm, "transformer": transformer}
LOOP = {"function-loop": cnn, "eager-loop": wide_mlp}


def main() -> None:
    """Trains one workload until no turn is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=[*FIT, *LOOP])
    parser.add_argument("--steps", type=int, default=100, help="training steps in a segment")
    parser.add_argument("--check-numerics", action="store_true", help="call tf.debugging.enable_check_numerics()")
    parser.add_argument("--bad-row", action="store_true", help=f"put a NaN row into step {BAD_STEP}; with fit only")
    options = parser.parse_args()

    if options.check_numerics:
        tf.debugging.enable_check_numerics()
    keras.utils.set_random_seed(0)
    turns = Turns(options.steps)
    if options.workload in FIT:
        fit(FIT[options.workload], turns, with_bad_row=options.bad_row)
    else:
        loop(LOOP[options.workload], turns, eagerly=options.workload == "eager-loop")


if __name__ == "__main__":
    main()
