"""The fault campaign puts in what it says it puts in, and fails where it should."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from faults import judge, ours, tables
from faults.__main__ import main
from faults.campaign import tasks
from faults.families import FAMILIES, STEPS, build
from faults.flips import Flip
from faults.healthy import Healthy
from faults.peers import ApplyIfFinite
from faults.runs import TARGETS, Bench, Fault, Plan, faults_of
from faults.taps import Tap
from nanguard.guard import flag


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keras warns about the infinities that it is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def through(tap: Tap, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """What comes out of a tap, and the gradient that comes back through it."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tap(x)
    return y.numpy(), tape.gradient(y, x, output_gradients=2.0 * tf.ones_like(x)).numpy()


def test_tap_passes_all_bits_on_and_replaces_one_number():
    """A tap changes no bit, not even of -0; armed, one number of the activation or of its gradient is replaced."""
    tap, x = Tap(), tf.constant([1.0, -0.0, 3.0])
    y, grad = through(tap, x)
    assert y.tobytes() == x.numpy().tobytes()
    assert grad.tolist() == [2.0, 2.0, 2.0]
    tap.forward.assign(np.nan)
    tap.backward.assign(np.inf)
    y, grad = through(tap, x)
    assert np.isnan(y).tolist() == [False, True, False]
    assert np.isinf(grad).tolist() == [False, True, False]
    tap.disarm()
    assert through(tap, x)[0].tobytes() == x.numpy().tobytes()


def test_tap_flips_one_bit():
    """A flipped bit of the exponent makes 1 of 2, and 2 of 1."""
    tap = Tap()
    tap.forward_flip.assign(1 << 30)
    y, _ = through(tap, tf.constant([1.0, 2.0, 1.0]))
    assert y.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("target", TARGETS)
def test_fault_changes_one_number_of_its_target(target: str):
    """A NaN is put into one number of what the fault names, and into nothing else."""
    bench = Bench(build("conv + BN", "float32"))
    fault = Fault(target, "NaN", 2, draw=5)
    batches = [bench.batch(Plan(tuple(range(STEPS)), fault), step) for step in range(STEPS)]
    places = [(step, part) for step, batch in enumerate(batches) for part in (0, 1) if np.isnan(batch[part]).any()]
    bench.arm(fault)
    spoilt = [v.path for v in bench.family.variables() if np.isnan(np.asarray(v, "float64")).any()]
    taps = [tap for tap in bench.family.taps for number in (tap.forward, tap.backward) if np.isnan(number.numpy())]
    assert len(places) == (target in ("inputs", "labels"))
    assert len(spoilt) == (target in ("weights", "slots", "BN statistics"))
    assert len(taps) == (target in ("activations", "gradients"))
    bench.reset()
    assert bench.are_finite()


def test_guard_passes_and_a_blind_one_does_not(monkeypatch: pytest.MonkeyPatch):
    """A training under the guard misses nothing; under a guard that takes every step for finite it misses much."""
    setting = ours.Setting("dense", styles=("loop",), every=10)
    found = ours.run(setting)
    assert len(found) >= 7
    assert {verdict.is_nonfinite for verdict in found} == {True, False}
    assert not tables.Found(ours=found).misses()
    for question in ("is_calm", "is_clean"):
        monkeypatch.setattr(flag, question, lambda number: tf.constant(True))
    missed = [verdict for verdict in ours.run(setting) if verdict.is_miss]
    assert len(missed) > 4
    assert all("not finite in step" in verdict.note for verdict in missed)


def test_apply_if_finite_leaves_out_and_gives_up():
    """As in optax: updates with a NaN are left out, and after so many in a row one is made all the same."""
    weight = keras.Variable([1.0])
    optimizer = ApplyIfFinite(keras.optimizers.SGD(1.0), max_consecutive_errors=2)
    optimizer.build([weight])
    for grad, wanted in ((0.5, 0.5), (np.nan, 0.5), (np.nan, 0.5), (0.25, 0.25), (np.nan, 0.25), (np.nan, 0.25)):
        optimizer.apply([tf.constant([grad])], [weight])
        assert weight.numpy() == [wanted]
    optimizer.apply([tf.constant([np.nan])], [weight])
    assert np.isnan(weight.numpy()).all()


def test_full_campaign_holds_what_it_should():
    """All families are trained in both ways, both compilers and both dtypes, by over a thousand faults."""
    settings = [task.arguments[0] for task in tasks(is_short=False, only=["*"]) if task.kind == "faults"]
    assert {(s.family, s.jit, s.dtype) for s in settings} == {
        (family, jit, dtype) for family in FAMILIES for jit in (False, True) for dtype in ("float32", "mixed_float16")
    }
    assert {s.loop for s in settings} == set(ours.LOOPS)
    whole = [s for s in settings if s.styles == ("fit", "loop") and s.every == 1]
    assert len(whole) == 4 * len(FAMILIES)
    assert {s.family for s in settings if s.explains} == set(FAMILIES)
    assert 2 * len(whole) * len(faults_of(build("dense", "float32"))) > 1000


def test_differing_bits_are_seen():
    """0 and -0 differ, and two equal NaNs do not; excused places are passed over."""
    one, other = [np.zeros(2), np.array([np.nan])], [np.array([0.0, -0.0]), np.array([np.nan])]
    assert judge.differing(one, other) == [0]
    assert judge.differing(one, other, excused=[0]) == []


def test_every_bar_is_told():
    """A false alarm and a flipped bit that ended in NaN are misses; a spike that was not seen is none."""
    healthy = Healthy("dense", 100, 1, 0, True, 1.0)
    flips = [Flip("dense", "weights", 30, True, True, False, 0.1, float("inf"))]
    flips += [Flip("dense", "weights", 30, False, False, False, 3.0, 3.0)]
    assert len(tables.Found(healthy=[healthy], flips=flips).misses()) == 2
    assert "1 false alarm in 100 healthy steps" in "\n".join(tables.page(tables.Found(healthy=[healthy])))


def test_unknown_work_is_refused(capsys: pytest.CaptureFixture[str]):
    """A pattern that nothing matches is an error."""
    with pytest.raises(SystemExit):
        main(["--only", "no such thing"])
    assert "no such thing" in capsys.readouterr().err
