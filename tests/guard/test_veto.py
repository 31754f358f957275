"""A traced step that is not finite is stopped before it changes a weight or an optimizer slot."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard

BAD = 3  # the step that is not finite
ROWS = 4


class Normalised(keras.optimizers.SGD):
    """Divides each gradient by its norm, and so gives NaN where a gradient is 0."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient / tf.norm(gradient), variable, learning_rate)


@dataclass
class Trouble:
    """One way for step `BAD` to go wrong: its data, the loss, and where the watch is to see it."""

    spoil: Callable[[np.ndarray, np.ndarray], None]
    loss: Callable[[Any, Any], Any]
    seen_in: tuple[str, ...]


def _spoil_cell(x: np.ndarray, y: np.ndarray) -> None:
    x[BAD * ROWS + 1, 2] = np.nan


def _spoil_row(x: np.ndarray, y: np.ndarray) -> None:
    y[BAD * ROWS + 1] = 0.0


def _spoil_batch(x: np.ndarray, y: np.ndarray) -> None:
    y[BAD * ROWS : (BAD + 1) * ROWS] = 0.0


TROUBLES = {
    "inputs": Trouble(_spoil_cell, lambda y, p: tf.reduce_mean((y - p) ** 2), ("loss", "gradients")),
    # The root of 0 is finite and its slope is not.
    "gradient": Trouble(_spoil_row, lambda y, p: tf.reduce_mean(tf.sqrt(tf.abs(y) * p**2)), ("gradients",)),
    "update": Trouble(_spoil_batch, lambda y, p: tf.reduce_mean(y * (p - 1.0) ** 2), ("weights",)),
}


def make_model(trouble: str) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """A model, its optimizer and its data, in which step `BAD` is in trouble."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)])
    optimizer = Normalised(0.01, momentum=0.9) if trouble == "update" else keras.optimizers.Adam(0.01)
    x = np.random.default_rng(0).normal(size=(6 * ROWS, 3)).astype("float32")
    y = np.ones((6 * ROWS, 1), "float32")
    TROUBLES[trouble].spoil(x, y)
    return model, optimizer, x, y


def batches(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    """The data as batches, in their order."""
    options = tf.data.Options()
    # An iterator that is let go in mid-epoch waits for its tuning thread, for half a minute now and then.
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS).with_options(options)


class Snapshots(keras.callbacks.Callback):
    """What weights and slots were before each step."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.taken: list[list[np.ndarray]] = []
        self._optimizer = optimizer

    def take(self, model: Any) -> None:
        self.taken.append(values(model, self._optimizer))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.take(self.model)


def values(model: Any, optimizer: Any) -> list[np.ndarray]:
    """Copies of all weights and slots; the count of steps comes first of the slots."""
    return [v.numpy().copy() for v in (*model.variables, *optimizer.variables) if "learning_rate" not in v.path]


def train_by_fit(trouble: str, stopped: type[BaseException], **options: Any) -> tuple[Any, Any, Snapshots]:
    """Trains by `fit` until it is stopped."""
    model, optimizer, x, y = make_model(trouble)
    model.compile(optimizer, TROUBLES[trouble].loss, **{"jit_compile": False, **options})
    snapshots = Snapshots(optimizer)
    with pytest.raises(stopped):
        model.fit(batches(x, y), shuffle=False, verbose=0, callbacks=[snapshots])
    return model, optimizer, snapshots


def train_by_loop(trouble: str, stopped: type[BaseException]) -> tuple[Any, Any, Snapshots]:
    """Trains by a loop over a traced step until it is stopped."""
    model, optimizer, x, y = make_model(trouble)
    optimizer.build(model.trainable_variables)
    snapshots = Snapshots(optimizer)

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = TROUBLES[trouble].loss(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    def train() -> None:
        for batch in batches(x, y):
            snapshots.take(model)
            step(*batch)

    with pytest.raises(stopped):
        train()
    return model, optimizer, snapshots


def bits(arrays: list[np.ndarray]) -> list[bytes]:
    """Arrays as bytes, which tell NaN from NaN and 0 from -0."""
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("trouble", ["inputs", "gradient"])
@pytest.mark.parametrize("train", [train_by_fit, train_by_loop])
def test_weights_and_slots_are_as_before_the_step(watched: Any, train: Any, trouble: str):
    """A step whose loss or gradients are not finite leaves every bit of weights and slots as it was."""
    model, optimizer, snapshots = train(trouble, watched.Stopped)
    assert len(snapshots.taken) == BAD + 1
    assert bits(values(model, optimizer)) == bits(snapshots.taken[-1])
    assert bits(snapshots.taken[-1]) != bits(snapshots.taken[-2])
    (capture,) = watched.captures
    assert capture.step == BAD
    assert set(capture.seen_in) == set(TROUBLES[trouble].seen_in)
    assert watched.watch.steps == BAD


@pytest.mark.parametrize("train", [train_by_fit, train_by_loop])
def test_capture_of_a_bad_update_holds_the_weights_before_it(watched: Any, train: Any):
    """Where finite gradients make weights non-finite, the capture has the values from before the update."""
    model, _, snapshots = train("update", watched.Stopped)
    (capture,) = watched.captures
    assert capture.step == BAD
    assert capture.seen_in == ("weights",)
    held = [capture.body.variables[v._value.handle._id].numpy() for v in model.variables]
    assert bits(held) == bits(snapshots.taken[-1][: len(held)])


def test_weights_written_by_hand_are_as_before_the_step(watched: Any):
    """An update that is written by hand is tested before it is made, and none of the step's other updates is made."""
    first, second = tf.Variable([1.0, 2.0], name="first"), tf.Variable([3.0], name="second")

    @tf.function
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(x * first) + tf.reduce_sum(x) * second[0]
        gradients = tape.gradient(loss, [first, second])
        size = tf.norm(x)
        first.assign_sub(0.1 * gradients[0] / size)
        second.assign_sub(0.1 * gradients[1])
        return loss

    step(tf.constant([1.0, 2.0]))
    before = bits([first.numpy(), second.numpy()])
    with pytest.raises(watched.Stopped):
        step(tf.constant([0.0, 0.0]))  # a gradient of 0 divided by a norm of 0
    assert bits([first.numpy(), second.numpy()]) == before
    (capture,) = watched.captures
    assert capture.seen_in == ("weights",)
    assert capture.step == 1


def test_second_optimizer_is_stopped_too(watched: Any):
    """Two models in one step: a bad gradient of the one that is updated first leaves both as they were."""
    variables = [keras.Variable([1.0], name=name) for name in ("first", "second")]
    optimizers = [keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.1)]

    @tf.function
    def step(x: Any) -> None:
        for variable, optimizer in zip(variables, optimizers, strict=True):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(x * variable)
            optimizer.apply_gradients([(tape.gradient(loss, variable), variable)])

    step(tf.constant([2.0]))
    before = bits([v.numpy() for v in (*variables, *optimizers[0].variables, *optimizers[1].variables)])
    with pytest.raises(watched.Stopped):
        step(tf.constant([np.inf]))
    after = bits([v.numpy() for v in (*variables, *optimizers[0].variables, *optimizers[1].variables)])
    assert after == before
    assert [capture.step for capture in watched.captures] == [1]


def test_step_in_the_middle_of_an_execution(watched: Any):
    """With several steps in one execution the weights are those before the bad step, not before the execution."""
    model, optimizer, x, y = make_model("inputs")
    model.compile(optimizer, TROUBLES["inputs"].loss, jit_compile=False, steps_per_execution=6)
    with pytest.raises(watched.Stopped):
        model.fit(batches(x, y), shuffle=False, verbose=0)
    stopped = values(model, optimizer)
    twin, twin_optimizer, x, y = make_model("inputs")
    twin.compile(twin_optimizer, TROUBLES["inputs"].loss, jit_compile=False, steps_per_execution=3)
    twin.fit(batches(x[: BAD * ROWS], y[: BAD * ROWS]), shuffle=False, verbose=0)
    assert bits(stopped) == bits(values(twin, twin_optimizer))
    assert [capture.step for capture in watched.captures] == [BAD]


def test_compiled_step_is_seen_with_the_weights_before_it(watched: Any):
    """XLA cannot be stopped in the middle of a step: the capture has the weights from before it."""
    model, _, snapshots = train_by_fit("inputs", watched.Stopped, jit_compile=True)
    (capture,) = watched.captures
    assert capture.compiled
    assert capture.step == BAD
    held = [capture.body.variables[v._value.handle._id].numpy() for v in model.variables]
    assert bits(held) == bits(snapshots.taken[-1][: len(held)])


def test_a_guarded_optimizer_that_goes_takes_none_of_the_hooks_along(watched: Any):
    """A guarded optimizer from before the watch may be let go while it watches: a bad step is stopped all the same."""
    watched.watch.disarm()
    optimizer = nanguard.GuardedOptimizer(keras.optimizers.SGD())
    later = type(watched)()
    later.watch.arm()
    try:
        del optimizer
        gc.collect()
        train_by_loop("inputs", later.Stopped)
    finally:
        later.watch.disarm()
    assert [capture.step for capture in later.captures] == [BAD]


def test_eager_loop_is_stopped_before_its_update(watched: Any):
    """In a plain eager loop `tape.gradient` does not come back from a bad step."""
    model, optimizer, x, y = make_model("gradient")
    snapshots = Snapshots(optimizer)

    def train() -> None:
        for features, labels in batches(x, y):
            snapshots.take(model)
            with tf.GradientTape() as tape:
                loss = TROUBLES["gradient"].loss(labels, model(features, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    with pytest.raises(watched.Stopped):
        train()
    assert bits(values(model, optimizer)) == bits(snapshots.taken[-1])
    (capture,) = watched.captures
    assert (capture.step, capture.seen_in) == (BAD, ("gradients",))
    assert watched.watch.steps == BAD
