"""A user's `tf.function` can be made anew around another function, and what is private about that is where it is."""

from __future__ import annotations

import pytest
import tensorflow as tf

from nanguard.backend import functions


def test_what_is_a_function():
    """Only what `tf.function` has made is taken for it, bound to an object or not."""

    class Trainer:
        @tf.function
        def step(self):
            return 1.0

    assert functions.is_function(tf.function(lambda: 1.0))
    assert functions.is_function(Trainer().step)
    assert not functions.is_function(lambda: 1.0)
    assert not functions.is_function(tf.function(lambda: 1.0).get_concrete_function())


@pytest.mark.parametrize("is_compiled", [True, False, None])
def test_remade_keeps_its_options(is_compiled):
    """The new one has the signature and the compiler of the other, and traces as often."""
    traced = []

    def double(x):
        traced.append(x)
        return 2 * x

    signature = [tf.TensorSpec([None], tf.float32)]
    made = functions.remade(tf.function(lambda x: x, input_signature=signature, jit_compile=is_compiled), double)
    for number in (1, 2):
        assert made(tf.ones([number])).numpy().tolist() == [2.0] * number
    assert len(traced) == 1
    assert made.input_signature == tuple(signature)
    assert functions.is_compiled(made) == bool(is_compiled)


def test_remade_without_the_compiler():
    """A compiled function can be made one that is not, in which host code runs."""
    seen = []

    def tell(x):
        tf.py_function(lambda value: seen.append(float(value)), [x], [])
        return x

    made = functions.remade(tf.function(lambda x: x, jit_compile=True), tell, is_compiled=False)
    made(tf.constant(3.0))
    assert seen == [3.0]


def test_private_clone_and_compiler():
    """TensorFlow's `Function` has `_clone` and `_jit_compile`."""
    function = tf.function(lambda: 1.0, jit_compile=True)
    assert callable(function._clone)
    assert function._jit_compile is True
