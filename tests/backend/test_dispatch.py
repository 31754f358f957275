"""The short way to what Keras has traced already."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard.backend import dispatch, seams


def model() -> keras.Model:
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    net.make_train_function()
    return net


def test_keras_step_is_found():
    """The traced function around `train_step` is found in Keras's train function."""
    step = dispatch.traced_step(model().train_function)
    assert step is not None
    assert step.python_function.__name__ == "one_step_on_data"


def test_nothing_is_found_where_there_is_none():
    """A train function of another kind has no traced step."""
    assert dispatch.traced_step(lambda iterator: None) is None


@pytest.mark.parametrize("pack", [tuple, list, lambda pair: ({"b": pair[0], "a": pair[0]}, pair[1])])
def test_shortcut_gives_what_the_function_gives(pack):
    """A batch of a known kind goes to the same trace, and its leaves arrive in the same order."""
    calls = []

    @tf.function
    def one_step_on_data(data):
        leaves = tf.nest.flatten(data)
        return {"first": tf.reduce_sum(leaves[0]), "last": leaves[-1]}

    def plain(iterator):
        calls.append(1)
        return one_step_on_data(next(iterator))

    shortcut = dispatch.Shortcut(plain, one_step_on_data)
    for factor in (1.0, 2.0, 3.0):
        batch = pack((tf.ones((4, 3)) * factor, tf.range(4)))
        found = shortcut(batch)
        assert float(found["first"]) == 12.0 * factor
        assert np.array_equal(found["last"], np.arange(4))
    assert len(calls) == 1
    shortcut(pack((tf.ones((2, 3)), tf.range(2))))
    assert len(calls) == 2


def test_shortcut_leaves_what_it_does_not_know():
    """A batch that holds a ragged tensor takes Keras's own way, each time."""
    calls = []
    shortcut = dispatch.Shortcut(lambda iterator: calls.append(next(iterator)), None)
    for _ in range(2):
        shortcut((tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.ones(2)))
    assert len(calls) == 2


def test_keras_own_step_is_known():
    """A model's own `train_step` is told from Keras's."""

    class Own(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    own = Own([keras.Input((3,)), keras.layers.Dense(1)])
    assert seams.is_keras_step(model())
    assert not seams.is_keras_step(own)
