"""The global generators can be put back, and what is private about them is where it is looked for."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from nanguard.backend import random as generators


@pytest.fixture(autouse=True)
def _own_numbers() -> Iterator[None]:
    before = generators.state()
    yield
    generators.restore(before)


def draw() -> list[float]:
    """One number from each generator."""
    return [
        random.random(),
        float(np.random.random()),
        float(tf.random.uniform([])),
        float(tf.random.get_global_generator().uniform([])),
        float(keras.ops.convert_to_numpy(keras.random.uniform(()))),
    ]


def test_the_same_numbers_again():
    """After a restore each generator gives the numbers that it gave before, as often as it is restored."""
    keras.utils.set_random_seed(3)
    draw()
    kept = generators.state()
    first = [draw(), draw()]
    for _ in range(2):
        generators.restore(kept)
        assert [draw(), draw()] == first


def test_the_plain_part_goes_through_json():
    """The state of what is no variable can be written down, and puts these generators back in another process."""
    keras.utils.set_random_seed(3)
    kept = json.dumps(generators.plain_state())
    first = draw()[:3]
    # Forgets the kernels that have drawn, as a new process has none.
    keras.utils.set_random_seed(3)
    draw()
    tf.random.set_seed(3)
    generators.restore_plain({name: tuples(value) for name, value in json.loads(kept).items()})
    assert draw()[:3] == first


def tuples(value):
    """What JSON has made lists of as tuples, all the way down."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def test_only_what_is_named_is_put_back():
    """A generator that is left out goes on from where it is."""
    kept = generators.plain_state()
    first = [random.random(), random.random()]
    float(np.random.random())
    before = np.random.get_state()[2]
    generators.restore_plain({"python": kept["python"]})
    assert [random.random(), random.random()] == first
    assert np.random.get_state()[2] == before


def test_taking_the_state_draws_nothing():
    """A run that takes states draws what one draws that takes none."""
    keras.utils.set_random_seed(4)
    plain = [draw(), draw()]
    keras.utils.set_random_seed(4)
    # Seeding leaves TensorFlow's own generator alone; a new one is seeded from it.
    tf.random.set_global_generator(tf.random.Generator.from_seed(1))
    first = draw()
    generators.state()
    second = draw()
    assert [first[:3], second[:3]] == [plain[0][:3], plain[1][:3]]


def test_private_op_seeds():
    """TensorFlow's context holds the global seed in `_seed`, and the generator of op seeds in `_rng`."""
    tf.random.set_seed(11)
    assert context.context()._seed == 11
    assert isinstance(context.context()._rng, random.Random)


def test_private_global_generator():
    """TensorFlow's global generator is `stateful_random_ops.global_generator`."""
    assert tf.random.get_global_generator() is stateful_random_ops.global_generator


def test_private_keras_generator():
    """Keras's global seed generator is a global attribute with a variable `state`."""
    keras.random.uniform(())
    found = global_state.get_global_attribute("global_seed_generator")
    assert isinstance(found, keras.random.SeedGenerator)
    assert isinstance(found.state.value, tf.Variable)


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "SFC64", "Philox"])
def test_another_bit_generator_of_numpy(kind):
    """A script may give NumPy's global functions another generator: its state goes through JSON too."""
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(getattr(np.random, kind)(3))
    try:
        kept = json.loads(json.dumps({"numpy": generators.plain_state()["numpy"]}))
        first = np.random.normal(size=3)
        generators.restore_plain(kept)
        np.testing.assert_array_equal(np.random.normal(size=3), first)
    finally:
        np.random.set_bit_generator(before)
