"""`guard.step` around a step that is called from Python: what `fit` has, a loop of one's own has too."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard as ng

# By its path: the tests are no package.
sys.path.insert(0, str(Path(__file__).parent))
from guardings import bad, batches, dataset, differences, everything, far, guard, sequential, with_bad

MODES = {"eager": lambda step: step, "graph": tf.function, "xla": lambda step: tf.function(step, jit_compile=True)}
every_mode = pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.long)])
REPLICAS = Path(__file__).parent / "step_replicas.py"


class Trainer:
    """A training with all that a step may write, in a loop of one's own."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(1)
        self.model = sequential(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
        self.optimizer = keras.optimizers.Adam(0.01)
        self.metric = keras.metrics.Mean("loss")
        self.by_hand = tf.Variable(tf.zeros([6, 1]), name="by_hand")

    def step(self, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.model(x, training=True) + x @ self.by_hand - y) ** 2)
        weights = self.model.trainable_variables
        *grads, by_hand = tape.gradient(loss, [*weights, self.by_hand])
        self.optimizer.apply(grads, weights)
        self.by_hand.assign_sub(0.1 * by_hand)
        self.metric.update_state(loss)
        return loss

    def apply(self, x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.model(x, training=True) - y) ** 2)
        weights = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)

    @tf.function
    def method(self, x: Any, y: Any) -> Any:
        return self.step(x, y)

    def everything(self) -> dict[str, Any]:
        own = {"metric": self.metric.total.numpy(), "by_hand": self.by_hand.numpy()}
        return {**everything(self.model, self.optimizer), **own}


def trained(mode: str, parts: list[Any], watch: Any = None) -> dict[str, Any]:
    """Trains in a loop, and gives all that is left."""
    trainer = Trainer()
    step = trainer.method if mode == "method" else MODES[mode](trainer.step)
    step = step if watch is None else watch.step(step)
    for x, y in parts:
        step(tf.constant(x), tf.constant(y))
    return trainer.everything()


@pytest.mark.parametrize(
    "mode", ["graph", "xla", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("eager", "method"))]
)
def test_a_refused_step_leaves_no_trace_and_is_kept(mode, tmp_path):
    """State as if the bad batches had never come; each is in quarantine with its row, the first ones explained."""
    good = batches()
    watch = ng.Guard(quarantine=tmp_path, verbose=False, num_explained=1)
    found = trained(mode, with_bad(good), watch)
    expected = trained(mode, good, guard())
    assert not differences(found, expected)
    assert not (far if mode == "xla" else differences)(expected, trained(mode, good))
    assert watch.num_skipped == 4
    assert [event.rows for event in watch.events] == [(3,)] * 4
    first = watch.events[0]
    assert first.reproduced
    assert first.incident.cause == "data_nan_inf"
    assert Path(first.capture).exists()
    assert all(Path(event.quarantined).exists() for event in watch.events)


@every_mode
def test_going_back_is_exact(mode):
    """Weights that something has broken in mid-training are gone back from: all bits are those of an unharmed run.

    The only snapshot is that of before the first step, though of a plain function it is known only then what it writes.
    """
    found = []
    for broken_after in (5, None):
        trainer, watch = Trainer(), guard(on_nonfinite="rollback")
        step = watch.step(MODES[mode](trainer.step))
        for place, (x, y) in enumerate(batches(8)):
            if place == broken_after:
                break_weights(trainer.model)
            step(tf.constant(x), tf.constant(y))
        assert [event.action for event in watch.events] == ["rollback"] * (broken_after is not None)
        found.append(trainer.everything())
    assert not differences(*found)


def break_weights(model: Any) -> None:
    """What a bit that flips in memory may do."""
    for weight in model.trainable_variables:
        weight.assign(weight * 1e4)


@every_mode
def test_a_lower_rate_holds_for_weights_written_by_hand(mode):
    """A rate that is far too high ends in the minimum, though no optimizer is there whose rate could be set."""
    weight = tf.Variable([1.0, 2.0])

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((weight - x) ** 2)
        weight.assign_sub(50.0 * tape.gradient(loss, weight))
        return loss

    watch = guard(on_nonfinite="rollback")
    step = watch.step(MODES[mode](step))
    for _ in range(40):
        step(tf.constant([3.0, -1.0]))
    np.testing.assert_allclose(weight.numpy(), [3.0, -1.0], atol=1e-2)
    assert float(watch._updater.rate) <= 2.0**-6
    before = weight.numpy()
    step(tf.constant([4.0, -1.0]))
    np.testing.assert_allclose(
        weight.numpy()[0] - before[0], 100.0 * float(watch._updater.rate) * (4 - before[0]), 1e-4
    )


def test_another_training_is_not_gone_back_from():
    """A guard that takes another step function lets go of the first one's snapshots."""
    watch = guard(on_nonfinite="rollback")
    first, second = Trainer(), Trainer()
    steps = [watch.step(tf.function(trainer.step)) for trainer in (first, second)]
    for x, y in batches(3):
        steps[0](tf.constant(x), tf.constant(y))
    before = first.everything()
    for place, (x, y) in enumerate(batches(8)):
        if place == 5:
            break_weights(second.model)
        steps[1](tf.constant(x), tf.constant(y))
    assert [event.action for event in watch.events] == ["rollback"]
    assert not differences(first.everything(), before)
    assert not differences(second.everything(), trained("graph", batches(8), guard(on_nonfinite="rollback")))


def test_an_iterator_as_argument():
    """A step that pulls its batch itself is refused as cleanly; its batch is not in hand and is not asked for again."""
    good = batches()
    found = {}
    for kind, parts in (("bad", with_bad(good)), ("good", good)):
        trainer, watch = Trainer(), guard(num_explained=3)
        step = watch.step(tf.function(lambda iterator, trainer=trainer: trainer.step(*next(iterator))))
        iterator = iter(dataset(parts))
        for _ in parts:
            step(iterator)
        found[kind] = trainer.everything()
        assert watch.num_skipped == (4 if kind == "bad" else 0)
    assert not differences(found["bad"], found["good"])


def test_arrays_that_are_filled_anew():
    """A batch whose arrays the loop uses again for the next is trained on again as it was."""
    found = []
    for broken_after in (5, None):
        trainer, watch = Trainer(), guard(on_nonfinite="rollback")
        step = watch.step(tf.function(trainer.step))
        x, y = (np.empty_like(part) for part in bad())
        for place, part in enumerate(batches(8)):
            if place == broken_after:
                break_weights(trainer.model)
            x[:], y[:] = part
            step(x, y)
        assert len(watch.events) == (broken_after is not None)
        found.append(trainer.everything())
    assert not differences(*found)


def test_two_optimizers_and_keyword_arguments():
    """A GAN's step with its batch by name: a NaN in the second loss undoes the first update."""
    keras.utils.set_random_seed(1)
    one, two = keras.Variable([1.0, 2.0]), keras.Variable([3.0])
    first, second = keras.optimizers.Adam(0.1), keras.optimizers.SGD(0.1, momentum=0.9)

    @tf.function
    def step(*, x: Any, scale: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(one.value * x)
        first.apply(tape.gradient(loss, [one]), [one])
        with tf.GradientTape() as tape:
            other = tf.reduce_sum(two.value * scale * tf.reduce_sum(one.value))
        second.apply(tape.gradient(other, [two]), [two])
        return {"loss": loss, "other": other}

    watch = guard()
    guarded = watch.step(step)
    x = tf.constant([1.0, -1.0])
    assert set(guarded(x=x, scale=tf.constant(1.0))) == {"loss", "other"}
    before = [v.numpy() for v in (one, two, *first.variables, *second.variables)]
    guarded(x=x, scale=tf.constant(np.nan))
    for old, new in zip(before, (one, two, *first.variables, *second.variables), strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert watch.num_skipped == 1


def test_too_many_in_a_row_stop_under_xla_too():
    """From outside a compiled step can be stopped, with the diagnosis, and no NaN has been applied."""
    trainer = Trainer()
    watch = guard(max_in_row=2, num_explained=1)
    step = watch.step(tf.function(trainer.step, jit_compile=True))
    x, y = map(tf.constant, bad())
    step(x, y)
    with pytest.raises(ng.NonFiniteError, match="2 steps in a row"):
        step(x, y)
    assert all(np.isfinite(weight).all() for weight in trainer.model.get_weights())


def test_a_step_without_an_update_is_none_of_its_business():
    """An evaluation is passed through, whatever it gives."""
    watch = guard()
    assert np.isnan(watch.step(tf.function(lambda x: x * 1.0))(tf.constant(np.nan)).numpy())
    assert watch.events == []


def test_a_loop_inside_of_the_function():
    """A whole epoch in one traced function is guarded step by step, and told of."""
    good = batches()

    def run(parts: list[Any]) -> tuple[dict[str, Any], Any]:
        trainer, watch = Trainer(), guard()
        trainer.optimizer.build(trainer.model.trainable_variables)
        inner = watch.step(trainer.step)

        @tf.function
        def train(data: Any) -> None:
            for x, y in data:
                inner(x, y)

        train(dataset(parts))
        return trainer.everything(), watch

    found, watch = run(with_bad(good))
    expected, _ = run(good)
    assert not differences(found, expected)
    assert watch.num_skipped == 4


@pytest.mark.parametrize("kind", ["traced inside", "traced before", "train_on_batch"])
def test_a_plain_function_around_a_traced_one(kind):
    """Steps whose traced part was never guarded are refused from outside, and the part stays as it was."""
    good = batches(4)

    def run(parts: list[Any], check: int) -> dict[str, Any]:
        trainer, watch = Trainer(), guard(num_explained=3)
        trainer.model.compile(trainer.optimizer, "mse", jit_compile=False)
        inner = trainer.model.train_on_batch if kind == "train_on_batch" else tf.function(trainer.step)
        if kind == "traced before":
            inner(*map(tf.constant, batches(1, seed=5)[0]))
        step = watch.step(lambda x, y: inner(x, y))
        for x, y in parts:
            step(tf.constant(x), tf.constant(y))
        assert watch.num_skipped == check
        assert all(event.reproduced for event in watch.events[:3])
        inner(*map(tf.constant, good[0]))
        return trainer.everything()

    assert not differences(run(with_bad(good), 4), run(good, 0))


def call(inner: Any, x: Any, y: Any) -> None:
    inner(x, y)


def in_a_loop(inner: Any) -> Any:
    def train(x: Any, y: Any) -> None:
        for _ in tf.range(1):
            inner(x, y)

    return train


@pytest.mark.parametrize("around", [tf.function, in_a_loop])
def test_an_update_inside_of_an_inner_function_or_loop(around):
    """An update in a graph of its own inside of the step is judged there, and all that the step wrote is put back."""
    good = batches(4)
    found = []
    for parts in (with_bad(good), good):
        trainer, watch = Trainer(), guard()
        trainer.optimizer.build(trainer.model.trainable_variables)
        inner = around(trainer.apply)
        step = watch.step(tf.function(inner if around is in_a_loop else functools.partial(call, inner)))
        for x, y in parts:
            step(tf.constant(x), tf.constant(y))
        assert watch.num_skipped == (4 if parts is not good else 0)
        found.append(everything(trainer.model, trainer.optimizer))
    assert not differences(*found)


def test_rollback_asks_for_the_whole_step():
    """Where the batch is not in hand, "rollback" says what to do."""
    trainer = Trainer()
    watch = guard(trainer.model, trainer.optimizer, on_nonfinite="rollback")
    with pytest.raises(ng.UsageError, match=r"guard\.step"):
        watch.apply([tf.zeros_like(v) for v in trainer.model.trainable_variables])
    x, y = map(tf.constant, batches(1)[0])
    with pytest.raises(ng.UsageError, match=r"guard\.step\(tf\.function"):
        tf.function(watch.step(trainer.step))(x, y)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("replicas")
    path = os.pathsep.join([str(Path(ng.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, REPLICAS, folder / "found.npz"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(folder / "found.npz") as arrays:
        return dict(arrays)


@pytest.mark.long  # `test_guard_strategy` has the guard on replicas
def test_a_step_on_several_replicas(replicas):
    """Around a step that calls `strategy.run`: clean on all replicas, explained, and its batch kept."""
    of = {kind: {k.split(":")[1]: v for k, v in replicas.items() if k.startswith(kind)} for kind in ("bad", "good")}
    assert of["bad"].pop("skipped") == 3
    assert of["good"].pop("skipped") == 0
    assert of["bad"].pop("cause") == "data_nan_inf"
    assert of["bad"].pop("kept") == 3
    for key in ("cause", "kept"):
        of["good"].pop(key)
    assert of["good"]
    assert not differences(of["bad"], of["good"])


@pytest.mark.long
def test_going_back_on_several_replicas(replicas):
    """A rollback restores the copies of all replicas, bit for bit."""
    of = {kind: {k.split(":")[1]: v for k, v in replicas.items() if k.startswith(kind)} for kind in ("back", "never")}
    assert of["back"].pop("attempts") == 1
    assert of["never"].pop("attempts") == 0
    assert of["never"]
    assert not differences(of["back"], of["never"])


def test_an_update_is_traced_once():
    """The branch that looks closely calls the update that the other one has traced: half of a first step's time."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam()
    updated = []
    update_step = optimizer.update_step

    def counted(gradient, variable, learning_rate):
        updated.append(variable.name)
        return update_step(gradient, variable, learning_rate)

    optimizer.update_step = counted
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=4, verbose=0, callbacks=[guard()])
    assert len(updated) == len(model.trainable_variables)
