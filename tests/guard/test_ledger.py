"""A guard's counters are one variable, and each of them reads and writes as if it were a variable of its own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard as ng
from nanguard.guard.ledger import PLACES, Ledger

ways = pytest.mark.parametrize("jit_compile", [None, False, True], ids=["eager", "graph", "xla"])


def traced(function, jit_compile):
    return function if jit_compile is None else tf.function(function, jit_compile=jit_compile)


@ways
def test_a_count_is_written_and_the_others_stay(jit_compile):
    """Each counter changes alone."""
    ledger = Ledger()

    def write():
        ledger.skipped.assign_add(2)
        ledger.overflows.assign(7)
        ledger.seen.assign([False, True, False, True])

    step = traced(write, jit_compile)
    step()
    step()
    assert (int(ledger.skipped), int(ledger.in_row), int(ledger.last), int(ledger.overflows)) == (4, 0, -1, 7)
    assert ledger.places() == (PLACES[1], PLACES[3])
    assert ledger.skipped.numpy() == 4
    assert ledger.skipped.read_value().dtype == tf.int64


@ways
def test_a_count_stands_where_a_tensor_is_wanted(jit_compile):
    """It goes into an op as its value, in the dtype that is asked for."""
    ledger = Ledger()
    ledger.skipped.assign(3)
    given = traced(
        lambda: (tf.add(ledger.skipped, tf.ones([], tf.int64)), tf.convert_to_tensor(ledger.seen)), jit_compile
    )
    total, seen = given()
    assert int(total) == 4
    assert seen.shape == (len(PLACES),)


def test_a_step_takes_two_variables_of_the_guards_from_outside():
    """What a traced step is given costs time in each call: the counters come as one, and so do the norms."""
    weights = [tf.Variable([1.0, 2.0]), tf.Variable([[3.0]])]
    plain = keras.optimizers.Adam()

    def captures(optimizer):
        optimizer.build(weights)

        @tf.function(autograph=False)
        def step(x):
            with tf.GradientTape() as tape:
                loss = x * tf.add_n([tf.reduce_sum(weight * weight) for weight in weights])
            optimizer.apply(tape.gradient(loss, weights), weights)

        return len(step.get_concrete_function(tf.ones([])).captured_inputs)

    num_plain = captures(plain)
    assert captures(ng.GuardedOptimizer(keras.optimizers.Adam(), verbose=False)) == num_plain + 2


def test_what_a_checkpoint_holds():
    """One variable, in which the first refused step is counted."""
    ledger = Ledger()
    optimizer = keras.optimizers.SGD()
    ledger.count(optimizer)
    ledger.count(optimizer)
    (numbers,) = ledger.variables
    assert numbers.numpy()[:3].tolist() == [2, 2, 0]
    assert int(ledger.row(optimizer)) == 2
    assert np.all(numbers.numpy()[3:] == 0)
