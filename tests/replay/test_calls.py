"""One call of a function is explained as a call: it has no batch, no rows, and nothing in it diverged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from nanguard import replay
from nanguard.findings import Incident

Explaining = Callable[..., Incident]


@pytest.fixture
def explaining(capturing: Any) -> Explaining:
    """Explains a call of a function of named arrays, from its graph."""

    def explain(function: Any, **operands: Any) -> Incident:
        tensors = [tf.constant(values) for values in operands.values()]
        capture, concrete = capturing(function, *tensors)
        capture.targets.losses = list(concrete.graph.outputs)
        capture.operands = list(zip(operands, concrete.graph.inputs, strict=True))
        incident = replay.explain(capture)
        assert incident is not None
        return incident

    return explain


def test_infinity_that_an_op_cannot_take(explaining: Explaining):
    """An infinity that a function is given is no fault; the op that makes a NaN of it is."""
    incident = explaining(lambda scores: scores - tf.reduce_max(scores), scores=np.full(2, -np.inf, np.float32))
    assert (incident.hazard, incident.op, incident.born_in) == ("NG203", "Sub", "forward")


def test_infinity_that_is_handed_on(explaining: Explaining):
    """If nothing but an operand can be to blame, it is told by its name."""
    incident = explaining(lambda scores: 2.0 * scores, scores=np.array([1.0, np.inf], np.float32))
    assert (incident.hazard, incident.op, incident.born_in) == ("NG701", None, "data")
    assert incident.summary == "An operand holds numbers that are not finite"
    assert [(operand.name, operand.posinf) for operand in incident.operands] == [("scores", 1)]


@pytest.mark.parametrize("size", [1, 8])
def test_overflow_is_no_divergence(explaining: Explaining, size: int):
    """Numbers too large to be squared are an overflow at its line, however many rows there are."""
    incident = explaining(lambda x: tf.reduce_sum(x * x), x=np.full((size, 1), 7e20, np.float32))
    assert (incident.hazard, incident.op, incident.rows) == ("NG202", "Mul", None)
    assert incident.where is not None
    assert incident.where.code.startswith("incident = explaining(lambda x: tf.reduce_sum(x * x)")


def test_recurrence(explaining: Explaining):
    """A loop that multiplies until its numbers overflow is told as one."""

    def grow(x: Any) -> Any:
        return tf.while_loop(lambda step, _: step < 200, lambda step, y: (step + 1, y * 2.0), (0, x))[1]

    incident = explaining(grow, x=np.ones(2, np.float32))
    assert incident.hazard == "NG602"
    assert incident.summary.startswith("A recurrence grew from step to step until Mul gave inf")


def test_label_that_is_no_class(explaining: Explaining):
    """The label is shown beside the logits."""
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits
    incident = explaining(
        lambda labels, logits: loss(labels, logits), labels=np.array([0, 7]), logits=np.zeros((2, 3), np.float32)
    )
    assert incident.hazard == "NG707"
    assert [(each.name, each.example_value) for each in incident.operands] == [("logits", None), ("labels", 7.0)]
