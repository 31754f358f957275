"""A recorded eager step runs again as it ran, and what the watch alone knows can be told without a replay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import replay
from nanguard.backend import execution
from nanguard.backend.values import array
from nanguard.guard import Watch
from nanguard.replay import program

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


class Stopped(SystemExit):
    """What the tests stop a training with: an exit, as the command's."""


@pytest.fixture
def captures() -> Iterator[list[Any]]:
    """The captures of a watch that is on for one test."""
    found: list[Any] = []

    def on_capture(capture: Any) -> bool:
        found.append(capture)
        raise Stopped

    watch = Watch(on_capture)
    watch.arm()
    try:
        yield found
    finally:
        watch.disarm()


def test_recorded_step_gives_the_same_numbers(captures: list[Any]):
    """With random numbers, state and traced functions in it a step gives what it gave; nothing is written."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential([keras.Input((3,)), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5)])
    optimizer = keras.optimizers.Adam(0.01)
    measure = tf.function(lambda p, y: tf.reduce_mean(tf.square(p) * y) + tf.reduce_mean(tf.sqrt(y)))
    losses = []

    def step(y: Any) -> None:
        weights = model.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(y)
            losses.append(measure(model(X, training=True), y))
        optimizer.apply(tape.gradient(losses[-1], [*weights, y])[:-1], weights)

    step(tf.ones([4, 8]))
    before = [variable.numpy() for variable in model.trainable_variables]
    with pytest.raises(Stopped):
        step(tf.concat([tf.zeros([1, 8]), tf.fill([3, 8], np.nan)], 0))
    replayed = program.build(captures[0])
    assert replayed.failure is None
    number = execution.identity_of(losses[-1])
    np.testing.assert_array_equal(replayed.values[number], losses[-1])
    for _, reference in captures[0].targets.gradients:
        assert reference in replayed.values
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_recorded_values_are_those_of_the_step(captures: list[Any]):
    """Each tensor of the step that is still there has in the replay the bits that it had."""
    weight = tf.Variable([1.0, 2.0, 3.0])
    kept = []
    with tf.GradientTape() as tape:
        noise = tf.random.normal([3])
        hidden = tf.tanh(weight * X[0] + noise)
        loss = tf.reduce_sum(tf.math.log(hidden * 0.0))
        kept += [noise, hidden, loss]
    with pytest.raises(Stopped):
        tape.gradient(loss, weight)
    replayed = program.build(captures[0])
    for tensor in kept:
        assert array(replayed.values[execution.identity_of(tensor)]).tobytes() == tensor.numpy().tobytes()


def bad_step() -> None:
    """One step of a traced training whose loss is not finite."""
    weight = tf.Variable([1.0, 0.0, 1.0], name="weight")

    @tf.function
    def step(x: Any) -> None:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(tf.math.log(weight * tf.abs(x)))
        weight.assign_sub(tape.gradient(loss, weight))

    step(tf.constant(X))


def test_explanation_is_the_same_each_time(captures: list[Any]):
    """A capture can be explained again: nothing in it was used up."""
    with pytest.raises(Stopped):
        bad_step()
    first, second = replay.explain(captures[0]), replay.explain(captures[0])
    assert first is not None
    assert first == second
    assert (first.op, first.hazard, first.born_in) == ("Log", "NG101", "forward")
    assert first.where is not None
    assert first.where.file.endswith("test_recording.py")
    assert first.where.code == "loss = -tf.reduce_mean(tf.math.log(weight * tf.abs(x)))"
    assert first.reproduced


def test_outline_tells_what_the_watch_knows(captures: list[Any]):
    """Without a replay there are the step, what was seen, the line that ran it, and why no more is known."""
    with pytest.raises(Stopped):
        bad_step()
    incident = replay.outline(captures[0], "out of memory")
    assert not incident.reproduced
    assert incident.step == 0
    assert incident.seen_in == captures[0].seen_in
    assert incident.batch_size == 4
    assert incident.where is not None
    assert incident.where.code == "step(tf.constant(X))"
    assert any("out of memory" in note for note in incident.notes)
    assert incident.hazard is None


def test_norm_without_an_axis_runs_again(captures: list[Any]):
    """An op whose caller left an attribute out is replayed as it ran."""
    weight = tf.Variable([0.0, 0.0])
    with tf.GradientTape() as tape:
        loss = tf.norm(weight)
    with pytest.raises(Stopped):
        tape.gradient(loss, weight)
    incident = replay.explain(captures[0])
    assert incident is not None
    assert (incident.hazard, incident.forward_op, incident.reproduced) == ("NG301", "Sqrt", True)


def test_variable_made_in_the_step_is_known(captures: list[Any]):
    """A step that makes its own variables and slots is judged by what it writes into them."""
    with tf.GradientTape():
        weight = keras.Variable([1.0])
        optimizer = keras.optimizers.Adam(0.1, epsilon=0.0)
        with pytest.raises(Stopped):
            optimizer.apply([tf.constant([0.0])], [weight])
    incident = replay.explain(captures[0])
    assert incident is not None
    assert (incident.hazard, incident.op, incident.born_in) == ("NG608", "RealDiv", "update")
    assert incident.where is not None
    assert incident.where.code == "optimizer.apply([tf.constant([0.0])], [weight])"
