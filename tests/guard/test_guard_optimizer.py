"""A guarded optimizer is an optimizer: it compiles, saves, loads, copies, and trains on single batches."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard as ng

# By its path: the tests are no package.
sys.path.insert(0, str(Path(__file__).parent))
from guardings import (
    bad,
    batches,
    compiled,
    dataset,
    differences,
    everything,
    far,
    guard,
    sequential,
    trained,
    with_bad,
)

# Keras's own way to save and to hand a learning rate to NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def guarded(**options):
    model = sequential(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
    return compiled(model, ng.GuardedOptimizer(keras.optimizers.Adam(0.01), verbose=False), metrics=["mae"], **options)


def without_dropout():
    """Keras does not save the seeds of a Dropout."""
    optimizer = ng.GuardedOptimizer(keras.optimizers.Adam(0.01), verbose=False)
    return compiled(sequential(keras.layers.BatchNormalization()), optimizer, metrics=["mae"])


def plain(**options):
    model = sequential(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
    return compiled(model, keras.optimizers.Adam(0.01), metrics=["mae"], **options)


@pytest.mark.parametrize(
    "mode",
    [{}, {"run_eagerly": True}, pytest.param({"jit_compile": True}, marks=pytest.mark.long)],
    ids=["graph", "eager", "xla"],
)
def test_in_compile(mode):
    """Compiled into a model it guards `fit` without a callback; on healthy data it changes no bit."""
    good = batches()
    found, expected = trained(guarded, with_bad(good), **mode), trained(guarded, good, **mode)

    # The loss tracker is Keras's: it is written before the gradients are there, and outside of the optimizer.
    def is_loss(key):
        return key.startswith(("metric/loss", "history/loss"))

    assert not differences(found, expected, but=is_loss)
    assert not (far if "jit_compile" in mode else differences)(expected, trained(plain, good, **mode))


def test_in_compile_with_a_guard():
    """With the callback as well a refused step is counted once, and nothing of it is left."""
    good = batches()
    watch = guard()
    found = trained(guarded, with_bad(good), watch)
    assert not differences(found, trained(guarded, good, guard()))
    assert watch.num_skipped == 8


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_train_on_batch(mode):
    """`train_on_batch` is guarded by the optimizer."""
    good = batches()

    def run(parts):
        keras.utils.set_random_seed(1)
        model = guarded(**mode)
        for x, y in parts:
            model.train_on_batch(x, y)
        return everything(model)

    # Keras counts its metrics anew for each batch.
    found, expected = run(with_bad(good)[:-1]), run(good)
    assert not differences(found, expected, but=lambda key: key.startswith("metric/loss"))


def test_save_and_load(tmp_path):
    """A model with a guarded optimizer saves and loads, and goes on as if it had not stopped."""
    good = batches()
    keras.utils.set_random_seed(1)
    model = without_dropout()
    model.fit(dataset(with_bad(good)), verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is ng.GuardedOptimizer
    assert type(again.optimizer.inner_optimizer) is keras.optimizers.Adam
    for one in (model, again):
        one.fit(dataset(good), verbose=0, shuffle=False)
    for old, new in zip(everything(model).items(), everything(again).items(), strict=True):
        np.testing.assert_array_equal(old[1], new[1], err_msg=old[0])


@pytest.mark.long
def test_saved_after_a_guard_nothing_of_it_is_in_the_file(tmp_path):
    """A model that a guard has watched saves and loads in safe mode where there is no nanguard."""
    keras.utils.set_random_seed(1)
    model = plain()
    model.fit(
        dataset(with_bad(batches())), verbose=0, shuffle=False, callbacks=[guard(on_nonfinite="rollback", clip=1.0)]
    )
    model.save(tmp_path / "model.keras")
    for name in ("config.json", "metadata.json", "model.weights.h5"):
        with zipfile.ZipFile(tmp_path / "model.keras") as file:
            assert b"nanguard" not in file.read(name)
    again = keras.models.load_model(tmp_path / "model.keras")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    model.export(tmp_path / "exported", verbose=False)
    assert "train_step" not in vars(model)


def test_from_config_gives_the_same_optimizer():
    """Configuration, with the clip, makes an optimizer with the same configuration."""
    optimizer = ng.GuardedOptimizer(keras.optimizers.SGD(0.5, momentum=0.9), clip=2.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert float(again.inner_optimizer.momentum) == 0.9


def test_clones_are_of_their_own():
    """A copy by its configuration counts and steps by itself."""
    first = ng.GuardedOptimizer(keras.optimizers.SGD(1.0))
    second = ng.GuardedOptimizer.from_config(first.get_config())
    one, two = keras.Variable([1.0]), keras.Variable([1.0])
    first.apply([tf.constant([np.nan])], [one])
    second.apply([tf.constant([0.5])], [two])
    assert (int(first.skipped), int(second.skipped)) == (1, 0)
    assert float(two[0]) == 0.5


@pytest.mark.parametrize("is_built", [False, True])
def test_pickle_and_deepcopy(is_built):
    """What Keras's own optimizers can do, pickling and deep copies, a guarded one can."""
    optimizer = ng.GuardedOptimizer(keras.optimizers.SGD(1.0))
    weight = keras.Variable([1.0])
    if is_built:
        optimizer.apply([tf.constant([0.5])], [weight])
    for made in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        other = keras.Variable([1.0])
        made = ng.GuardedOptimizer.from_config(made.get_config())
        made.apply([tf.constant([np.nan])], [other])
        assert float(other[0]) == 1.0


def test_learning_rate_is_the_inner_one():
    """Reading and setting the rate, as callbacks do, is reading and setting that of the inner optimizer."""
    optimizer = ng.GuardedOptimizer(keras.optimizers.SGD(0.5))
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    weight = keras.Variable([1.0])
    optimizer.apply([tf.constant([1.0])], [weight])
    assert float(weight[0]) == 0.75
    assert optimizer.iterations is optimizer.inner_optimizer.iterations


def test_reduce_lr_on_plateau_and_schedules():
    """Callbacks that set the learning rate reach the inner optimizer."""
    model = guarded()
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch)
    model.fit(dataset(batches(2)), epochs=3, verbose=0, shuffle=False, callbacks=[rates])
    assert float(model.optimizer.inner_optimizer.learning_rate) == 0.25


def test_by_name():
    """The inner optimizer may be given by name; what is no optimizer is refused."""
    assert type(ng.GuardedOptimizer("adam").inner_optimizer) is keras.optimizers.Adam
    with pytest.raises(ValueError, match="Could not interpret optimizer"):
        ng.GuardedOptimizer(3)
    with pytest.raises(ng.UsageError, match="clip"):
        ng.GuardedOptimizer("adam", clip=-1)


def test_hooks_go_with_the_last_guarded_optimizer():
    """TensorFlow and Keras have their own methods back once no guard is left."""
    code = """
import gc, tensorflow as tf, nanguard as ng
before = tf.GradientTape.gradient
optimizers = [ng.GuardedOptimizer("sgd"), ng.GuardedOptimizer("sgd")]
assert tf.GradientTape.gradient is not before
optimizers.pop(0)
gc.collect()
assert tf.GradientTape.gradient is not before
optimizers.clear()
gc.collect()
assert tf.GradientTape.gradient is before
"""
    # In a process of its own: a guard of another test may be alive in this one.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_bad_batch_before_the_first_good_one():
    """The very first step may be bad: slots are made, and are 0."""
    keras.utils.set_random_seed(1)
    model = guarded()
    before = model.get_weights()
    x, y = bad()
    model.train_on_batch(x, y)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(model.optimizer.iterations) == 0


def test_a_loss_scale_around_it_is_refused():
    """The wrong order, which Keras's own wrapping under mixed precision makes too, is told with the way out."""
    weight = keras.Variable([1.0])
    optimizer = keras.optimizers.LossScaleOptimizer(ng.GuardedOptimizer(keras.optimizers.SGD(0.1), verbose=False))
    with pytest.raises(ng.UsageError, match="auto_scale_loss=False"):
        optimizer.apply([tf.constant([1.0])], [weight])
