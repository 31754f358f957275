"""The private parts of Keras's optimizers by which an update is clipped; a test's name says what moved."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard
from nanguard.backend import updates
from nanguard.errors import UsageError


class Half:
    """Halves each rate."""

    def rate(self, optimizer, gradient, variable):
        return tf.constant(0.5)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Nadam", "Lamb", "RMSprop"])
def test_velocities_hold_the_second_moment(name):
    """`_velocities` and `_get_variable_index` give what the optimizer itself keeps after a gradient."""
    variable, optimizer = keras.Variable([1.0, 2.0]), getattr(keras.optimizers, name)()
    for step, size in enumerate((1.0, 3.0, 0.1)):
        gradient = tf.constant([size, -2 * size])
        optimizer.build([variable])
        before, kept, added = updates.second_moment(optimizer, variable)
        optimizer.apply([gradient], [variable])
        after = np.asarray(optimizer._velocities[0])
        if name != "RMSprop":
            after = after / (1 - optimizer.beta_2 ** (step + 1))
        np.testing.assert_allclose(kept * before + added * gradient**2, after, rtol=1e-4)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Lion"])
def test_no_second_moment(name):
    """An optimizer that keeps none is named, with a way out."""
    variable, optimizer = keras.Variable([1.0]), getattr(keras.optimizers, name)()
    optimizer.build([variable])
    with pytest.raises(UsageError, match=f"Received: {name}. For any optimizer: ClipByGlobalNorm"):
        updates.second_moment(optimizer, variable)


def test_update_step_is_called_on_the_instance_with_the_rate():
    """`apply` reads `update_step` from the optimizer, and the third argument is the rate; open twice scales once."""
    variable, optimizer = keras.Variable([1.0]), keras.optimizers.SGD(1.0)
    with updates.scaled_updates(optimizer, Half()), updates.scaled_updates(optimizer, Half()):
        optimizer.apply([tf.constant([0.5])], [variable])
    np.testing.assert_array_equal(variable.numpy(), [0.75])
    optimizer.apply([tf.constant([0.5])], [variable])
    np.testing.assert_array_equal(variable.numpy(), [0.25])
    assert "update_step" not in vars(optimizer)


def test_iterations_are_counted_by_the_inner_optimizer():
    """Around an optimizer a loss scale need not count, and what is around it gives the count all the same."""
    variable = keras.Variable([1.0])
    inner = keras.optimizers.SGD(1.0)
    optimizer = nanguard.GuardedOptimizer(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0))
    for number in range(3):
        optimizer.apply([tf.constant([1.0])], [variable])
        for each in (optimizer, optimizer.inner_optimizer, inner):
            assert int(updates.iterations(each)) == number + 1
        assert int(optimizer.iterations) == number + 1


def test_inner_optimizer_is_the_one_that_updates():
    """Under a loss scale it is the inner optimizer's update that is scaled."""
    variable = keras.Variable([1.0])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=2.0)
    with updates.scaled_updates(optimizer, Half()):
        optimizer.apply([tf.constant([1.0])], [variable])
    np.testing.assert_array_equal(variable.numpy(), [0.75])


def test_shared_reads_change_nothing():
    """An update whose step count is read once gives the same weights, and Keras's variables are as they were."""

    def trained(is_shared):
        weight = keras.Variable(np.linspace(-1, 1, 7, dtype="float32"))
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build([weight])

        @tf.function
        def step(gradient):
            with updates.shared_reads(optimizer) if is_shared else contextlib.nullcontext():
                optimizer.apply([gradient], [weight])

        for number in range(5):
            step(tf.fill([7], 0.1 * number))
        assert int(optimizer.iterations) == 5
        assert "assign" not in vars(optimizer._iterations._value)
        assert optimizer._iterations._value._cached_value is None
        return weight.numpy()

    assert np.array_equal(trained(False), trained(True))
