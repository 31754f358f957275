"""Snapshots: what was kept by reference comes back bit for bit, whatever wrote over it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard.guard.snapshots import Snapshots


def bits(variables: list[Any]) -> list[bytes]:
    """The bytes of all variables."""
    return [tf.convert_to_tensor(variable).numpy().tobytes() for variable in variables]


def make_model(**compiled: Any) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A model with dropout and moving statistics, and its data."""
    keras.utils.set_random_seed(2)
    layers = [
        keras.Input((5,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01), "mse", **compiled)
    x = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
    return model, x, x[:, :1] * 2


def variables_of(model: keras.Model) -> list[Any]:
    """All that a step writes."""
    return [*model.variables, *model.optimizer.variables]


@pytest.mark.parametrize(
    "compiled", [{"jit_compile": False}, {"jit_compile": True}, {"run_eagerly": True}], ids=["graph", "xla", "eager"]
)
def test_steps_repeat_bit_for_bit(compiled: dict[str, Any]):
    """A restore brings every variable back, and the same steps on the same batches then end with the same bits."""
    model, x, y = make_model(**compiled)
    model.train_on_batch(x, y)
    snapshots = Snapshots(lambda: variables_of(model))
    assert snapshots.take(1, {"epoch": 0})
    at_snapshot = bits(variables_of(model))
    ends = []
    for _ in range(2):
        for _ in range(3):
            model.train_on_batch(x, y)
        ends.append(bits(variables_of(model)))
        snapshot = snapshots.restore()
        assert (snapshot.step, snapshot.extra) == (1, {"epoch": 0})
        assert bits(variables_of(model)) == at_snapshot
    assert ends[0] == ends[1] != at_snapshot


class Back(keras.callbacks.Callback):
    """Takes a snapshot after batch 3 of the first epoch, and goes back to it after batch 6 and in the second epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[bool] = []
        self.epoch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self.snapshots = Snapshots(lambda: variables_of(self.model))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.epoch == 0 and batch == 3:
            self.snapshots.take(3)
            self.taken = bits(variables_of(self.model))
        elif batch == 6:
            changed = bits(variables_of(self.model)) != self.taken
            self.snapshots.restore()
            self.found.append(changed and bits(variables_of(self.model)) == self.taken)


@pytest.mark.parametrize(
    "compiled",
    [{"jit_compile": False}, pytest.param({"jit_compile": True}, marks=pytest.mark.long)],
    ids=["graph", "xla"],
)
def test_back_in_the_middle_of_fit(compiled: dict[str, Any]):
    """A callback may go back in the middle of an epoch of `fit`, more than once, and the training goes on."""
    model, x, y = make_model(**compiled)
    back = Back()
    losses = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[back]).history["loss"]
    assert back.found == [True, True, True]
    assert np.isfinite(losses).all()


WRITES: dict[str, Callable[[tf.Variable], Any]] = {
    "assign": lambda v: v.assign(tf.zeros_like(v)),
    "assign_add": lambda v: v.assign_add(tf.ones_like(v)),
    "scatter": lambda v: v.scatter_add(tf.IndexedSlices(tf.ones([2, 3], v.dtype), tf.constant([0, 2]))),
    "slice": lambda v: v[1].assign(tf.zeros([3], v.dtype)),
    "function": tf.function(lambda v: v.assign_add(tf.ones_like(v)), autograph=False),
    "xla": tf.function(lambda v: v.assign_add(tf.ones_like(v)), jit_compile=True, autograph=False),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int64"])
@pytest.mark.parametrize("write", WRITES)
def test_no_write_reaches_a_snapshot(write: str, dtype: str):
    """What was read by reference stays as it was when the variable is written in place, before and after a restore."""
    variable = tf.Variable(tf.cast(tf.reshape(tf.range(12), [4, 3]), dtype))
    snapshots = Snapshots([variable])
    assert snapshots.take(0)
    before = bits([variable])
    for _ in range(3):
        WRITES[write](variable)
        assert bits([variable]) != before
        snapshots.restore()
        assert bits([variable]) == before


def test_sparse_updates_of_an_embedding():
    """An optimizer's sparse update of an embedding, which writes single rows in place, does not reach a snapshot."""
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(50, 4), keras.layers.Flatten()])
    model.compile(keras.optimizers.Adagrad(0.5), "mse", jit_compile=False)
    x, y = np.array([[1, 2], [1, 7]]), np.ones((2, 8), "float32")
    model.train_on_batch(x, y)
    snapshots = Snapshots(variables_of(model))
    snapshots.take(1)
    before = bits(variables_of(model))
    model.train_on_batch(x, y)
    snapshots.restore()
    assert bits(variables_of(model)) == before


REPLICAS = """
import tensorflow as tf
from nanguard.guard.snapshots import Snapshots

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    weight = tf.Variable([1.0, 2.0])
    statistic = tf.Variable(
        0.0, synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.MEAN
    )

@tf.function
def step():
    def replica():
        number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
        statistic.assign_add(number + 1.0)
    strategy.run(replica)

step()
snapshots = Snapshots([weight, statistic])
assert snapshots.take(0)
for _ in range(2):
    step()
    weight.assign([5.0, 6.0])
    snapshots.restore()
    print([part.numpy().tolist() for part in weight.values], [part.numpy().tolist() for part in statistic.values])
"""


def test_every_replica_gets_its_own_value_back():
    """Under a strategy the value of each replica is kept, also where replicas differ."""
    # A process of its own: devices can be divided only before anything has run.
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["[[1.0, 2.0], [1.0, 2.0]] [1.0, 2.0]"] * 2, done.stderr


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_what_is_not_finite_is_never_taken(dtype: str, bad: float):
    """One NaN or infinity in any variable and no snapshot is taken, in every dtype."""
    good, wrong = tf.Variable(1.0), tf.Variable(tf.cast([[0.0, bad]], dtype))
    snapshots = Snapshots([good, wrong, tf.Variable(3)])
    assert not snapshots.take(0)
    assert len(snapshots) == 0
    wrong.assign(tf.cast([[0.0, 1.0]], dtype))
    assert snapshots.take(0)


def test_a_sum_that_overflows_is_finite():
    """A variable of finite numbers whose squares overflow is taken."""
    snapshots = Snapshots([tf.Variable([3e38, 1e30])])
    assert snapshots.take(0)


def test_random_numbers_repeat():
    """Python's, NumPy's and TensorFlow's generators stand where they stood."""
    keras.utils.set_random_seed(7)
    snapshots = Snapshots([tf.Variable(1.0)])
    snapshots.take(0)

    def draw() -> list[float]:
        return [random.random(), float(np.random.normal()), float(tf.random.uniform([]))]

    first = draw()
    snapshots.restore()
    assert draw() == first


def test_ring_and_due():
    """The newest `keep` stay; one is due `every` steps after the newest; a restore drops those that are newer."""
    weight = tf.Variable(0.0)
    snapshots = Snapshots([weight], every=10, keep=3)
    for step in range(45):
        weight.assign(float(step))
        if snapshots.due(step):
            snapshots.take(step)
    assert snapshots.steps == [20, 30, 40]
    assert snapshots.restore(-2).step == 30
    assert float(weight) == 30.0
    assert snapshots.steps == [20, 30]
    assert not snapshots.due(39)
    assert snapshots.due(40)
    snapshots.clear()
    with pytest.raises(IndexError, match="there must be a snapshot"):
        snapshots.restore()


def test_bytes_are_bounded():
    """The oldest go when all together pass `max_bytes`; one that is too large alone is told once and none is due."""
    weight = tf.Variable(tf.zeros([100]))
    snapshots = Snapshots([weight], keep=5, max_bytes=1000)
    for step in range(4):
        assert snapshots.take(step)
    assert snapshots.steps == [2, 3]
    assert snapshots.nbytes == 800
    small = Snapshots([weight], max_bytes=100)
    with pytest.warns(RuntimeWarning, match="one takes 400 bytes"):
        assert not small.take(0)
    assert not small.take(1)
    assert not small.due(2)


@pytest.mark.parametrize("name", ["every", "keep", "max_bytes"])
def test_bad_arguments(name: str):
    """A number that is not positive is refused in one line."""
    with pytest.raises(ValueError, match=rf"`{name}` must be positive. Received: {name}=0"):
        Snapshots([], **{name: 0})
