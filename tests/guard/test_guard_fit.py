"""In `fit` a guarded run ends, bit for bit, where one ends that never saw the bad batches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

# By its path: the tests are no package.
sys.path.insert(0, str(Path(__file__).parent))
import guardings
from guardings import BUILDS, bad, batches, differences, far, guard, trained, with_bad

# TensorFlow's graph optimizer multiplies a gradient by scale and rate in another order where they stand in a branch.
# With its arithmetic optimization off, the bits of the first two are the same too.
IN_ANOTHER_ORDER = {"schedule_decay_clipnorm", "momentum_global_clipnorm", "untrusted_optimizer"}
every_build = pytest.mark.parametrize("name", BUILDS)
# The kinds of state that a step can write; the campaign of faults trains more, and the long tests all.
EVERYDAY = ("batch_norm_dropout_metrics", "half_precision", "gan")


def last(results):
    """The results of the last run, without what belongs to the logs of a step that was refused."""
    return {key: value for key, value in results.items() if not key.startswith("history")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERYDAY else pytest.mark.long) for name in BUILDS]
)
def test_in_a_graph(name):
    """NaN at the start, in the middle, twice in a row and at the end leaves no trace; without, no bit is changed."""
    build, good = BUILDS[name], batches()
    watch = guard()
    found = trained(build, with_bad(good), watch)
    expected = trained(build, good, guard())
    assert not differences(found, expected)
    assert not (far if name in IN_ANOTHER_ORDER else differences)(expected, trained(build, good))
    assert found["history/nanguard/skipped"].tolist() == [4.0, 4.0]
    assert watch.num_skipped == len(watch.events) == 8
    assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.long
@every_build
def test_eagerly(name):
    """So it is in eager mode."""
    build, good = BUILDS[name], batches()
    found = trained(build, with_bad(good), guard(), run_eagerly=True)
    expected = trained(build, good, guard(), run_eagerly=True)
    assert not differences(found, expected)
    assert not differences(expected, trained(build, good, run_eagerly=True))


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "batch_norm_dropout_metrics", "gradient_accumulation", "moving_average", "untrusted_optimizer", "layer_state",
        "weights_by_hand", "gan", "half_precision",
    ],
)  # fmt: skip
def test_under_xla(name):
    """So it is under XLA; against plain `fit`, which XLA fuses otherwise, all but the last bits are the same."""
    build, good = BUILDS[name], batches(3)
    found = trained(build, with_bad(good), guard(), jit_compile=True)
    expected = trained(build, good, guard(), jit_compile=True)
    assert not differences(found, expected)
    assert not far(expected, trained(build, good, jit_compile=True))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "jit"),
    [("batch_norm_dropout_metrics", False), ("gan", False), ("half_precision", False), ("gradient_accumulation", True)],
)
def test_several_steps_per_execution(name, jit):
    """With three steps per execution a refused one leaves no trace in the two beside it."""
    build, good = BUILDS[name], batches(7)
    options = {"steps_per_execution": 3, "jit_compile": jit}
    found = trained(build, with_bad(good), guard(), **options)
    expected = trained(build, good, guard(), **options)
    assert not differences(last(found), last(expected))
    if not jit:
        assert not differences(last(expected), last(trained(build, good, **options)))


@pytest.mark.parametrize(
    "mode",
    [
        {},
        pytest.param({"run_eagerly": True}, marks=pytest.mark.long),
        pytest.param({"jit_compile": True}, marks=pytest.mark.long),
    ],
    ids=["graph", "eager", "xla"],
)
def test_infinities_and_overflows(mode):
    """An infinity, and a number whose square overflows, are refused as a NaN is."""
    build, good = guardings.batch_norm_dropout_metrics, batches(3)
    expected = trained(build, good, guard(), epochs=1, **mode)
    for value in (np.inf, 1e30) if not mode else (np.inf, -np.inf, 1e30):
        watch = guard()
        found = trained(build, with_bad(good, value), watch, epochs=1, **mode)
        assert watch.num_skipped == 4
        assert not differences(found, expected)


@pytest.mark.parametrize(
    "name",
    [
        "gan",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("batch_norm_dropout_metrics", "sparse_gradients", "own_train_step", "half_precision")
        ),
    ],
)
@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_bad_labels(name, mode):
    """A NaN in the labels, which only the loss sees, or the second of two losses, leaves no trace."""
    build, good = BUILDS[name], batches(3)
    x, y = bad(0.0)
    y[3] = np.nan
    watch = guard()
    found = trained(build, [good[0], (x, y), *good[1:]], watch, **mode)
    assert not differences(found, trained(build, good, guard(), **mode))
    assert watch.num_skipped == 2
