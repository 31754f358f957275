"""The flag never passes a number that is not finite, and in the end refuses no step whose numbers are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import nanguard as ng
from nanguard.guard import flag

DTYPES = ["float16", "float32", "float64", "bfloat16"]
NOT_FINITE = st.sampled_from([np.nan, np.inf, -np.inf])
floats = arrays.arrays(
    "float32",
    arrays.array_shapes(max_dims=3, max_side=9),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def tensor(numbers, dtype):
    with np.errstate(over="ignore"):
        return tf.cast(tf.constant(numbers), dtype)


@pytest.mark.parametrize("measure", [flag.total, flag.half_square])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(numbers=floats, value=NOT_FINITE, place=st.integers(0, 10**6))
def test_nothing_that_is_not_finite_passes(measure, dtype, numbers, value, place):
    """One NaN or infinity anywhere makes the sum fail, whatever stands around it."""
    numbers = numbers.copy()
    numbers.flat[place % numbers.size] = value
    assert not bool(flag.is_clean(measure(tensor(numbers, dtype))))
    assert not bool(flag.is_calm(flag.half_square(tensor(numbers, dtype))))


@pytest.mark.parametrize("measure", [flag.total, flag.half_square])
@settings(max_examples=60)
@given(numbers=floats, signs=st.tuples(NOT_FINITE, NOT_FINITE))
def test_two_infinities_do_not_cancel(measure, numbers, signs):
    """Infinities of opposite sign make a NaN, not a 0."""
    numbers = np.concatenate([numbers.ravel(), np.array(signs, "float32")])
    assert not bool(flag.is_clean(measure(tf.constant(numbers))))


@settings(max_examples=100)
@given(numbers=floats)
def test_the_slow_look_is_exact(numbers):
    """What the sum cannot tell is looked at number by number: finite numbers pass, however large."""
    assert bool(flag.are_finite([tf.constant(numbers), tf.constant([3])]))


@settings(max_examples=60)
@given(numbers=arrays.arrays("float32", 7, elements=st.floats(-(2.0**50), 2.0**50, width=32)))
def test_ordinary_numbers_pass_at_once(numbers):
    """Numbers up to 2**50 need no second look."""
    assert bool(flag.is_clean(flag.half_square(tf.constant(numbers))))
    assert bool(flag.is_clean(flag.total(tf.constant(numbers))))
    assert bool(flag.is_calm(flag.half_square(tf.constant(numbers))))


@settings(max_examples=60)
@given(numbers=floats)
def test_what_is_calm_can_be_squared_and_added_up(numbers):
    """Numbers that need no second look are small enough that an optimizer's slot stays finite."""
    if bool(flag.is_calm(flag.half_square(tf.constant(numbers)))):
        squares = numbers.ravel() ** 2
        assert np.all(np.isfinite(numbers.sum() + squares * np.float32(2)))
    else:
        assert np.abs(numbers).max() > 1e14


def test_nothing_cancels_in_what_is_calm():
    """Two huge numbers of opposite sign add up to 0, and their squares do not."""
    numbers = tf.constant([1e20, -1e20])
    assert bool(flag.is_clean(flag.total(numbers)))
    assert not bool(flag.is_calm(flag.half_square(numbers)))


def test_no_numbers_at_all():
    """Nothing is finite; so are integers."""
    assert bool(flag.are_finite([]))
    assert bool(flag.is_clean(flag.half_square(tf.zeros([0, 3]))))
    assert bool(flag.are_finite([tf.constant([1, 2])]))


def test_complex_numbers_are_squared_too():
    """Half a sum of squares is that of their magnitudes: one of 1e20 is not calm, and 3 + 4j has 12.5."""
    assert float(flag.half_square(tf.constant([3 + 4j], tf.complex64))) == 12.5
    assert not bool(flag.is_calm(flag.half_square(tf.constant([1e20j], tf.complex64))))


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, np.nan), complex(np.inf, 1)])
def test_complex_numbers(value):
    """A NaN in either part fails."""
    numbers = tf.constant([1 + 1j, value], tf.complex64)
    assert not bool(flag.is_clean(flag.total(numbers)))
    assert not bool(flag.is_clean(flag.half_square(numbers)))
    assert not bool(flag.are_finite([numbers]))


@pytest.fixture(scope="module")
def stepping():
    """A guarded SGD with a rate that no gradient overflows with, beside the plain one."""
    weights = [keras.Variable(np.zeros(4, "float32")) for _ in range(2)]
    plain, guarded = (
        keras.optimizers.SGD(0.5),
        ng.GuardedOptimizer(keras.optimizers.SGD(0.5), max_in_row=10**6, verbose=False),
    )
    plain.build([weights[0]])
    guarded.build([weights[1]])

    @tf.function
    def step(grad):
        plain.apply([grad], [weights[0]])
        guarded.apply([grad], [weights[1]])

    return step, weights, guarded


@settings(max_examples=150)
@given(grad=arrays.arrays("float32", 4, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_law(stepping, grad):
    """The law of the guard: on finite gradients it changes no bit, and on any other the weight stays as it was."""
    step, (plain, guarded), optimizer = stepping
    start = np.array([1.0, -2.0, 0.0, 1e-30], "float32")
    plain.assign(start)
    guarded.assign(start)
    skipped = int(optimizer.skipped)
    step(tf.constant(grad))
    if np.isfinite(grad).all():
        assert plain.numpy().tobytes() == guarded.numpy().tobytes()
        assert int(optimizer.skipped) == skipped
    else:
        assert guarded.numpy().tobytes() == start.tobytes()
        assert int(optimizer.skipped) == skipped + 1
