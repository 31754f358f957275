"""Spikes: called where a number leaves what is usual, and never for ever, by a NaN, or in a healthy series."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from nanguard.guard.spikes import LayerNorms, Spike, SpikeDetector

NUM = 20_000


def healthy(kind: str, seed: int, num: int = NUM) -> Iterator[tuple[float, float]]:
    """The losses and gradient norms of a training in which nothing is wrong."""
    draw = np.random.default_rng(seed)
    time = np.arange(num)
    z, other = draw.normal(size=(2, num))
    if kind == "log-normal":
        loss, norm = np.exp(0.5 * z), np.exp(other)
    elif kind == "pareto":
        loss, norm = 1 + draw.pareto(1.5, num), 1 + draw.pareto(1.5, num)
    elif kind == "warm-up":
        rate = np.minimum(time / 2000, 1) * np.exp(-time / 3e4)
        loss, norm = 7 * np.exp(-time / 3e3) + 2 + 0.1 * z, np.exp(0.2 * other) * (0.2 + 5 * rate)
    elif kind == "cyclic":
        wave = 0.5 - 0.5 * np.cos(2 * np.pi * time / 1000)
        loss, norm = (1 + 2 * wave) * np.exp(0.1 * z), (1 + 4 * wave) * np.exp(0.2 * other)
    elif kind == "negative":
        loss, norm = -1000 + 200 * np.exp(-time / 1e4) + 5 * draw.standard_t(5, num), np.exp(0.3 * z)
    elif kind == "crossing 0":
        loss, norm = 3 - time / 4e3 + 0.2 * z, np.exp(0.3 * other)
    elif kind == "smooth":
        loss, norm = np.exp(-time / 2e3) * (1 + 1e-3 * z), np.exp(-time / 2e3) * (1 + 1e-2 * other)
    elif kind == "constant":
        loss, norm = np.ones(num), np.ones(num)
    else:
        raise ValueError(kind)
    return zip(loss.tolist(), norm.tolist(), strict=True)


KINDS = ["log-normal", "pareto", "warm-up", "cyclic", "negative", "crossing 0", "smooth", "constant"]


def warmed_up(seed: int = 0, **arguments: int) -> SpikeDetector:
    """A detector that has seen 300 ordinary steps: a loss around 1 and a norm around 1."""
    detector = SpikeDetector(**arguments)
    draw = np.random.default_rng(seed)
    for z, other in draw.normal(size=(300, 2)):
        assert detector.observe(math.exp(0.1 * z), math.exp(0.2 * other)) is None
    return detector


@pytest.mark.parametrize("kind", KINDS)
def test_no_false_alarm(kind: str):
    """A healthy series, with heavy tails, trends, warm-up, cycles or no noise, has no spike and no divergence."""
    detector = SpikeDetector()
    assert [spike for loss, norm in healthy(kind, 1) if (spike := detector.observe(loss, norm))] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundredfold_is_seen_in_ordinary_noise(kind: str):
    """A hundredfold norm or loss is seen in any series whose own tail is not as heavy."""
    detector = SpikeDetector()
    for loss, norm in healthy(kind, 2, 3000):
        detector.observe(loss, norm)
    if kind not in ("log-normal", "pareto"):
        assert detector.observe(loss, 100 * norm).what == "grad_norm"
        assert detector.observe(loss + 100 * abs(loss), norm).what == "loss"
    assert detector.observe(loss, 1e30).what == "grad_norm"


def test_a_spike_says_what_it_is():
    """A spike holds the number, the median that it is held against, and its score is its distance in spreads."""
    spike = warmed_up().observe(1.0, 50.0)
    assert (spike.what, spike.value) == ("grad_norm", 50.0)
    assert spike.center == pytest.approx(1.0, rel=0.1)
    assert spike.score == pytest.approx(math.log(50.0 / spike.center) / spike.spread)
    assert spike.score > 6
    spike = warmed_up().observe(9.0, 1.0)
    assert (spike.what, spike.value) == ("loss", 9.0)
    assert spike.center == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_changes_nothing(bad: float):
    """A NaN or an infinity is no spike, and the detector judges on as if it had not been."""
    detector = warmed_up()
    state = detector.state()
    for _ in range(1000):
        assert detector.observe(bad, bad) is None
    assert detector.state() == state
    assert detector.observe(bad, 50.0).what == "grad_norm"
    assert detector.observe(50.0, bad).what == "loss"


def test_a_spike_does_not_hide_the_next():
    """Spikes with ordinary steps between them are all called: none of them enters the statistics."""
    detector = warmed_up()
    limit = detector.limit
    for _ in range(50):
        assert detector.observe(1.0, 1e6).what == "grad_norm"
        assert detector.observe(1.0, 1.0) is None
    assert detector.limit <= limit


def test_a_rare_kind_of_batch_is_learnt():
    """What comes back again and again at up to a hundred times the median is called three times and no more."""
    draw = np.random.default_rng(4)
    detector = SpikeDetector()
    norms = np.exp(0.2 * draw.normal(size=NUM)) * np.where(draw.random(NUM) < 0.01, 10, 1)
    num_called = sum(detector.observe(1.0, norm) is not None for norm in norms.tolist())
    assert 1 <= num_called <= 4


@pytest.mark.parametrize("factor", [30.0, 1e6])
def test_a_new_level_does_not_alarm_for_ever(factor: float):
    """After `adapt` spikes in a row the new level is what is usual, and a spike above it is called again."""
    detector = warmed_up()
    draw = np.random.default_rng(5)
    norms = (factor * np.exp(0.2 * draw.normal(size=500))).tolist()
    called = [step for step, norm in enumerate(norms) if detector.observe(1.0, norm)]
    assert called == list(range(8))
    assert detector.observe(1.0, 50 * factor).what == "grad_norm"


def test_a_lower_level_is_taken_over():
    """When the level falls the limit follows within two windows."""
    detector = warmed_up()
    for norm in np.exp(0.2 * np.random.default_rng(6).normal(size=256)).tolist():
        assert detector.observe(1.0, 1e-3 * norm) is None
    assert detector.observe(1.0, 1.0).what == "grad_norm"


def test_the_limit_is_where_spikes_begin():
    """`limit` is infinite before `min_steps` numbers; then a norm below it is no spike, and one above it is."""
    detector = SpikeDetector(min_steps=20)
    for _ in range(19):
        assert detector.observe(1.0, 1.0) is None
    assert detector.limit == math.inf
    detector.observe(1.0, 1.0)
    limit = detector.limit
    assert 2.0 < limit * 1.001 < 10.0
    assert detector.observe(1.0, limit * 0.999) is None
    assert detector.observe(1.0, limit * 1.001) is not None


@pytest.mark.parametrize("start", [2.0, -3.0])
def test_a_steady_climb_is_a_divergence(start: float):
    """A loss that climbs a little with every step is called a divergence, once a climb; noise does not hide it."""
    detector = SpikeDetector()
    found: list[Spike] = []
    draw = np.random.default_rng(7)
    for step in range(2000):
        trend = start + (abs(start) * 0.006 * max(step - 500, 0))
        spike = detector.observe(trend + 0.1 * draw.normal(), math.exp(0.2 * draw.normal()))
        if spike:
            found.append(spike)
    assert {spike.what for spike in found} == {"divergence"}
    assert 1 <= len(found) <= 2
    assert found[0].center == pytest.approx(start, abs=0.1 * abs(start))
    assert found[0].value > found[0].center


def test_patience():
    """With `patience=3` two spikes in a row are passed over and the third is told."""
    detector = warmed_up(patience=3)
    assert [detector.observe(1.0, 1e4) is not None for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("num", [5, 40, 700, 3001])
def test_state_goes_through_json(num: int):
    """A detector that goes on from a state that went through JSON says and holds the same from then on, bit for bit."""
    first = SpikeDetector()
    steps = list(healthy("pareto", 8, 6000))
    steps[::97] = [(loss * 1e4, norm * 1e6) for loss, norm in steps[::97]]
    for loss, norm in steps[:num]:
        first.observe(loss, norm)
    second = SpikeDetector()
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    for loss, norm in steps[num:]:
        assert first.observe(loss, norm) == second.observe(loss, norm)
    assert first.state() == second.state()
    assert first.limit == second.limit


def test_no_number_breaks_it():
    """Any numbers in any order, zeros and the largest ones among them, raise nothing."""
    draw = np.random.default_rng(9)
    odd = [0.0, -0.0, 5e-324, 1e-300, 1.7e308, -1.7e308, math.nan, math.inf, -math.inf, -1.0, 1.0, 3e38]
    detector = SpikeDetector(window=16, min_steps=4)
    counted: Counter[str] = Counter()
    for first, second in draw.integers(len(odd), size=(5000, 2)):
        spike = detector.observe(odd[first], odd[second])
        counted[spike.what if spike else ""] += 1
        json.dumps(detector.state(), allow_nan=False)
    assert counted[""] > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 8}, "`window` must be at least 16"),
        ({"threshold": 0}, "`threshold` must be positive"),
        ({"threshold": math.nan}, "`threshold` must be positive"),
        ({"min_steps": 200}, "`min_steps` must be from 2 to `window`, here 128"),
        ({"patience": 0}, "`patience` must be from 1 to `adapt`, here 8"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str):
    """A bad argument is refused in one line with its rule."""
    with pytest.raises(ValueError, match=message):
        SpikeDetector(**arguments)


def test_layers_that_grew():
    """Layers are named by how far they grew above their median, the largest growth first, a NaN before all."""
    norms = LayerNorms(window=8)
    for step in range(20):
        norms.observe([1.0 + 0.1 * (step % 3), 0.0, 2.0, 5.0])
    names = ["a", "b", "c", "d"]
    assert norms.grown(names, [1.2, 0.0, 3.0, 6.0]) == []
    assert norms.grown(names, [5.5, 1e-9, math.nan, 50.0]) == [
        ("b", math.inf),
        ("c", math.inf),
        ("d", 10.0),
        ("a", pytest.approx(5.0)),
    ]
    other = LayerNorms(window=8)
    other.restore(json.loads(json.dumps(norms.state(), allow_nan=False)))
    assert other.grown(names, [1.2, 0.0, 3.0, 50.0]) == norms.grown(names, [1.2, 0.0, 3.0, 50.0]) == [("d", 10.0)]
    assert LayerNorms().grown(names, [1.0, 2.0, 3.0, math.inf]) == [("d", math.inf)]
