"""The rows that are blamed are those without which the step is finite: no row more and no row less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from nanguard.backend import execution
from nanguard.capture import Capture, Targets, TracedStep
from nanguard.replay import program, rows

SIZE = 16
planted = st.sets(st.integers(0, SIZE - 1), min_size=1, max_size=SIZE // 4)


def of_any_size(x: Any, y: Any) -> Any:
    return tf.reduce_mean(tf.math.log(tf.reduce_sum(x, 1)) * y)


def of_fixed_size(x: Any, y: Any) -> Any:
    return tf.reduce_mean(tf.math.log(tf.reshape(tf.reduce_sum(x, 1), [SIZE])) * y)


class Steps:
    """Steps that were traced once, on a batch of one's own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._weight = tf.Variable(2.0)
        spec = tf.TensorSpec([None, 3]), tf.TensorSpec([None])
        self._concrete = tf.function(lambda x, y: function(x * self._weight, y)).get_concrete_function(*spec)

    def proof(self, bad: set[int]) -> rows.Proof:
        """The proof for a batch whose `bad` rows give a logarithm of 0."""
        x = np.random.default_rng(0).uniform(0.5, 2.0, size=(SIZE, 3)).astype("float32")
        x[sorted(bad)] = 0.0
        graph = self._concrete.graph
        key = execution.identity_of(self._weight.handle)
        values = {id(graph.inputs[0]): tf.constant(x), id(graph.inputs[1]): tf.ones([SIZE])}
        body = TracedStep(graph, values, {key: self._weight.read_value()}, {key: self._weight.handle})
        capture = Capture(0, None, ("loss",), Targets(losses=[graph.outputs[0]]), body)
        replayed = program.build(capture)
        batch = rows.of_capture(capture, replayed)
        assert batch is not None
        assert batch.size == SIZE
        return rows.Proof(replayed, batch, [replayed.numbers[id(graph.outputs[0])]])


STEPS = {function.__name__: Steps(function) for function in (of_any_size, of_fixed_size)}


@pytest.mark.parametrize("name", STEPS)
@given(bad=planted)
@settings(max_examples=15)
def test_bisection_finds_the_planted_rows(name: str, bad: set[int]):
    """Without any suspicion exactly the planted rows are found, whether or not the step holds the size of its batch."""
    assert STEPS[name].proof(bad).culprits([]) == sorted(bad)


@given(bad=planted, others=planted)
@settings(max_examples=15)
def test_suspects_are_narrowed_to_the_planted_rows(bad: set[int], others: set[int]):
    """Of suspects that hold more than the planted rows, the innocent are let go."""
    assert STEPS["of_any_size"].proof(bad).culprits(sorted(bad | others)) == sorted(bad)


@given(bad=planted, others=planted)
@settings(max_examples=15)
def test_wrong_suspects_do_not_mislead(bad: set[int], others: set[int]):
    """Suspects without whom the step is still not finite are not blamed."""
    assert STEPS["of_any_size"].proof(bad).culprits(sorted(others - bad)) == sorted(bad)


def test_no_row_is_blamed_where_all_are_bad():
    """If no row is finite by itself it is not a matter of rows."""
    assert STEPS["of_any_size"].proof(set(range(SIZE))).culprits([]) is None


def test_no_row_is_blamed_for_a_bad_weight():
    """A weight that is not finite is no row's fault."""
    steps = Steps(of_any_size)
    steps._weight.assign(np.nan)
    assert steps.proof(set()).culprits([]) is None
    assert steps.proof({3}).culprits([3]) is None


def test_batch_is_what_has_the_same_number_of_rows():
    """Arguments with another first axis are no part of the batch, and each row of it can be taken out."""
    graph = tf.function(lambda x, y, scale: x * y[:, None] * scale).get_concrete_function(
        tf.ones([4, 3]), tf.ones([4]), tf.ones([3])
    ).graph  # fmt: skip
    x = np.arange(12, dtype="float32").reshape(4, 3)
    given_values = [tf.constant(x), tf.constant([1.0, 2.0, 3.0, 4.0]), tf.ones([3])]
    values = {id(tensor): value for tensor, value in zip(graph.inputs, given_values, strict=True)}
    capture = Capture(0, None, ("loss",), Targets(), TracedStep(graph, values, {}, {}))
    replayed = program.build(capture)
    batch = rows.of_capture(capture, replayed)
    assert batch is not None
    assert [entry.name for entry in batch.entries] == ["x", "y"]
    np.testing.assert_array_equal(batch.array(batch.entries[0]), x)
    kept = batch.only([3, 1], is_padded=False)
    assert [value.numpy().tolist() for value in kept.values()] == [x[[3, 1]].tolist(), [4.0, 2.0]]
    padded = batch.only([3, 1], is_padded=True)
    assert [value.numpy().tolist() for value in padded.values()][1] == [4.0, 2.0, 4.0, 2.0]


class Mirrored:
    """Stands for a variable that has a copy on each of three replicas."""

    _values = (None, None, None)


def test_parts_of_replicas_are_one_batch():
    """Rows are counted through the parts of all replicas, which may differ in size; no replica is left without rows."""
    parts = {
        "x": [np.array([[0.0], [1.0], [2.0]]), np.array([[3.0], [4.0]]), np.zeros([0, 1])],
        "scale": [np.ones([4, 2])],
        "y": [np.arange(3.0), np.arange(3.0, 5.0), np.zeros(0)],
    }
    graph = tf.function(lambda x, scale, y: [*x, *scale, *y]).get_concrete_function(
        *([tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in group] for group in parts.values())
    ).graph  # fmt: skip
    given_values = [tf.constant(part) for group in parts.values() for part in group]
    values = {id(tensor): value for tensor, value in zip(graph.inputs, given_values, strict=True)}
    targets = Targets(gradients=[(Mirrored(), graph.inputs[0])])
    capture = Capture(0, None, ("loss",), targets, TracedStep(graph, values, {}, {}))
    batch = rows.of_capture(capture, program.build(capture))
    assert batch is not None
    assert batch.size == 5
    assert [batch.array(entry).ravel().tolist() for entry in batch.entries] == [[0.0, 1.0, 2.0, 3.0, 4.0]] * 2
    assert batch.entry(batch.entries[1].parts[1]) == (batch.entries[1], 3)
    kept = list(batch.only([4, 1], is_padded=False).values())
    assert [part.numpy().ravel().tolist() for part in kept[:3]] == [[4.0, 1.0, 4.0], [1.0, 4.0], []]
