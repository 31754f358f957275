"""Cox's partial likelihood against loops over risk sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

RNG = np.random.default_rng(0)


def breslow(time, event, hazard):
    def term(i):
        return math.log(sum(math.exp(hazard[j]) for j in range(len(time)) if time[j] >= time[i])) - hazard[i]

    return [term(i) if event[i] else 0.0 for i in range(len(time))]


def efron(time, event, hazard):
    total = 0.0
    for moment in set(time):
        fallen = [i for i in range(len(time)) if time[i] == moment and event[i]]
        at_risk = sum(math.exp(hazard[j]) for j in range(len(time)) if time[j] >= moment)
        tied = sum(math.exp(hazard[i]) for i in fallen)
        for before, i in enumerate(fallen):
            total += math.log(at_risk - before / len(fallen) * tied) - hazard[i]
    return total


@pytest.fixture
def patients():
    return RNG.integers(0, 5, 20).astype("float64"), RNG.integers(0, 2, 20).astype("float64"), RNG.normal(size=20)


def test_each_event_is_weighed_against_those_at_risk(patients):
    """With Breslow's ties, one term for each sample; with Efron's, the sum of them."""
    time, event, hazard = patients
    y_true = np.stack([time, event], -1)
    got = losses.cox_partial_likelihood(y_true, hazard[:, None])
    np.testing.assert_allclose(got, breslow(time, event, hazard), rtol=1e-12, atol=1e-12)
    got = losses.cox_partial_likelihood(y_true, hazard, ties="efron")
    np.testing.assert_allclose(tf.reduce_sum(got), efron(time, event, hazard), rtol=1e-12)


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_a_batch_without_events_or_without_samples_gives_0(ties):
    """Value and gradient are 0."""
    loss = losses.CoxPartialLikelihood(ties)
    for size in (3, 0):
        hazard = tf.ones(size)
        with tf.GradientTape() as tape:
            tape.watch(hazard)
            value = loss(tf.zeros((size, 2)), hazard)
        assert value == 0
        assert not np.any(tape.gradient(value, hazard))


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_a_sample_of_weight_0_is_in_no_risk_set(patients, ties):
    """The others have the loss that they have without it, also if it is NaN."""
    time, event, hazard = (x.astype("float32") - 3 for x in patients)
    event += 3
    y_true = np.stack([time, event], -1)
    weight = (np.arange(20) % 3 > 0).astype("float32")
    kept = weight > 0
    loss = losses.CoxPartialLikelihood(ties, reduction="sum")
    hazard[~kept] = np.nan
    np.testing.assert_allclose(loss(y_true, hazard, weight), loss(y_true[kept], hazard[kept]), rtol=1e-5)


def test_hazards_far_apart_do_not_overflow():
    """Where the exponentials overflow or vanish, the difference of the hazards is left."""
    got = losses.cox_partial_likelihood([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0]], [0.0, 1000.0, -1000.0])
    np.testing.assert_array_equal(got, [1000.0, 0.0, 0.0])
