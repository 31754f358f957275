"""The verification counts what it says it counts, and fails where it should."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanguard.intervals import FLOAT_FORMATS
from verification import grids, kinds, loss_truth, losses, numbers, ops, row_truth, truth
from verification.__main__ import main
from verification.exceptions import Known, Miss, misses
from verification.sweep import Tally, runner
from verification.ways import Way


@pytest.mark.parametrize(("dtype", "count"), [("float16", 63488), ("bfloat16", 65280)])
def test_every_finite_half_precision_number_is_tried(dtype: str, count: int) -> None:
    """All patterns that are neither infinite nor NaN are there, once each."""
    found = numbers.all_numbers(dtype)
    assert len(found) == count == len(np.unique(found.view(np.uint16)))
    assert np.isfinite(found.astype(np.float32)).all()


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
def test_special_numbers_hold_both_zeros_the_ends_and_neighbours(dtype: str) -> None:
    """Among them are 0, -0, the smallest and largest numbers, 1 and the numbers beside it; all are finite."""
    limits = FLOAT_FORMATS[dtype]
    found = numbers.special_numbers(dtype).astype(np.float64)
    assert np.isfinite(found).all()
    assert {math.copysign(1, x) for x in found.tolist() if x == 0} == {1.0, -1.0}
    wanted = [limits.max, limits.smallest_normal, 1.0, 1 + limits.eps, 1 - limits.eps / 2]
    assert set(wanted) | {-x for x in wanted} <= set(found.tolist())


@pytest.mark.parametrize(
    ("dtype", "scalar"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16), ("float32", np.float32)]
)
def test_an_ulp_is_the_gap_to_the_next_number(dtype: str, scalar: Any) -> None:
    """The next number is 1 ulp off, on both sides of a power of two and below the smallest normal number."""
    limits = FLOAT_FORMATS[dtype]
    for number in (1.0, 1.5, 2.0 - limits.eps, limits.smallest_normal / 2, limits.max / 2):
        here = np.array([number], scalar)
        above = (here.view(f"u{here.dtype.itemsize}") + np.array(1, f"u{here.dtype.itemsize}")).view(here.dtype)
        assert numbers.ulps(above, here.astype(np.float64), dtype).tolist() == [1.0]


@pytest.mark.parametrize("name", truth.TRUTHS)
def test_float64_formulas_agree_with_mpmath(name: str) -> None:
    """Each is far nearer to mpmath than float32 can tell."""
    found = truth.TRUTHS[name]
    values = np.array([1e-30, 1e-8, 1e-3, 0.25, 0.5, 0.999, 1.0009765625, 2.5, 15.0, 40.0], np.float32)
    pairs = numbers.pairs(values, values)
    operands = pairs if found.num_operands == 2 else (values,)
    with np.errstate(all="ignore"):
        defined = np.isfinite(found.kernel(*[x.astype(np.float64) for x in operands]))
    assert defined.sum() >= 2
    assert found.kernel_error([x[defined] for x in operands]) < truth.KERNEL_BAR


def test_float64_errors_are_judged_by_mpmath_itself() -> None:
    """A float64 value one unit off is 1 ulp off, which no float64 formula could tell."""
    x = np.array([2.0])
    with mpmath.workprec(100):
        nearest = float(mpmath.log(2))
    _, errors = truth.TRUTHS["log"].errors(np.array([np.nextafter(nearest, 1)]), [x], "float64")
    assert 0.5 <= errors[0] <= 1.5


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_sweep_counts_bad_values_gradients_and_squares(mode: str) -> None:
    """Of log at -1, 0, 1e-30 and 1 two values, one gradient and two squares are not finite."""
    x = np.array([-1.0, 0.0, 1e-30, 1.0], np.float32)
    tally = Tally()
    tally.add(runner(tf.math.log, mode=mode)([x]), [x])
    assert (tally.inputs, tally.value, tally.gradient, tally.square) == (4, 2, 1, 2)
    assert tally.example == (-1.0,)


def test_gradients_are_asked_for_behind_the_fixed_operands_only() -> None:
    """The gradient to a label is not looked at."""
    y, p = np.array([0.0], np.float32), np.array([2.0], np.float32)
    result = runner(lambda y, p: p / y * 0 + p * 3, mode="eager", fixed=1)([y, p])
    assert len(result.gradients) == 1


def test_a_plain_log_would_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain op in the place of ours is counted, and its figures are misses that nothing excuses."""
    record = ops.OPS["log"]
    plain = type(record)("log", tf.math.log, record.cures, record.replaces, record.kind, record.operands)
    monkeypatch.setitem(ops.OPS, "log", plain)
    figures = ops.measure("log", ops.SHORT)
    found = list(misses("log", figures.tallies, ours=ops.OURS, columns=("value", "gradient", "square")))
    assert {(miss.dtype, miss.column) for miss in found} >= {(dtype, "value") for dtype in FLOAT_FORMATS}
    assert all(miss.is_fault for miss in found)


def test_our_log_is_finite_where_the_plain_one_is_not() -> None:
    """Ours has zeros where the plain op, in the same run, has none."""
    figures = ops.measure("log", ops.SHORT)
    ours, plain = (figures.total(arm, mode="graph") for arm in (ops.OURS, "tf.math.log"))
    assert ours is not None
    assert plain is not None
    assert (ours.value, ours.gradient, ours.square) == (0, 0, 0)
    assert ours.inputs == plain.inputs > 2 * 63000
    assert min(plain.value, plain.gradient, plain.square) > 0


def test_a_known_miss_excuses_no_worse_figure() -> None:
    """It covers figures up to its bound, or up to that of the peer."""

    def miss(figure: float, plain: float | None, bound: float | None) -> Miss:
        return Miss("log", "ulp", "float32", "graph", figure, (1.0,), Known("log", "ulp", bound, "why"), plain)

    assert not miss(2.9, 2.9, None).is_fault
    assert miss(2.9, 2.8, None).is_fault
    assert miss(2.9, None, None).is_fault
    assert not miss(2.9, 1.0, 3.0).is_fault
    assert miss(3.1, 3.1, 3.0).is_fault
    assert "float32 graph 2.90 ulp (plain 1.00) at 1.0" in str(miss(2.9, 1.0, 3.0))


@pytest.mark.parametrize("name", sorted(kinds.KINDS))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_grids_are_finite_and_hold_wrong_predictions(name: str, dtype: str) -> None:
    """All labels and predictions are numbers, and of most losses some predictions are wrong."""
    kind = kinds.KINDS[name]
    for family in (kind.family, kind.logits):
        if family is None:
            continue
        grid = family(dtype)
        assert np.isfinite(numbers.as_float64(grid.y_pred)).all()
        assert np.isfinite(numbers.as_float64(grid.y_true)).all()
        assert len(grid.y_true) == len(grid.y_pred) == len(grid.is_wrong) == len(grid.in_domain)
        if kind.teaches:
            assert 0 < grid.is_wrong.sum() < len(grid.is_wrong)


def test_keras_loses_the_gradient_of_saturated_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras's own crossentropy, in the place of ours, has gradients of 0 on wrong predictions and is far off there."""
    import keras

    monkeypatch.setattr(losses.nanguard.losses, "BinaryCrossentropy", keras.losses.BinaryCrossentropy, raising=False)
    variant = kinds.variants("BinaryCrossentropy")[0]
    tally = losses.measure(variant, dtypes=("float32",), modes=("graph",)).of(
        losses.OURS, dtype="float32", mode="graph"
    )
    assert tally is not None
    assert tally.zero > 0
    assert tally.ulp is not None
    assert tally.ulp > 1e6


def test_true_values_are_those_of_the_formula() -> None:
    """log(2) for a probability of one half, and nothing where the true loss is infinite or the input is none."""
    half = np.array([[0.5], [0.0], [2.0]], np.float32)
    ones = np.ones((3, 1), np.float32)
    grid = grids.Grid(ones, half, np.zeros(3, bool), np.array([True, True, False]))
    values, _ = losses.true_values(loss_truth.EXACT["BinaryCrossentropy"][0], grid)
    assert values[0] == math.log(2)
    assert np.isnan(values[1:]).all()


def test_rows_are_judged_where_a_float_can_hold_them() -> None:
    """A softmax that is right is within an ulp, one that is off is not, and float64 is not judged."""
    x = np.array([[0.5, 1.0, -2.0, 3.0]], np.float32)
    right = tf.nn.softmax(x).numpy()
    near, off = (row_truth.row_errors("softmax", value, (x,), "float32") for value in (right, right * 1.001))
    assert near is not None
    assert off is not None
    assert near[0] <= 2 < 1000 < off[0]
    assert row_truth.row_errors("softmax", right, (x,), "float64") is None


@pytest.mark.parametrize("way", [Way(1, row=(4,)), Way(2)])
def test_operands_to_take_the_time_with_hold_a_million_numbers(way: Way) -> None:
    """Each is of float32 and inside the domain of every op."""
    for operand in way.everyday(1000):
        assert operand.dtype == np.float32
        assert operand.size == 1_000_000
        assert 0 < operand.min() < operand.max() < 1


def test_the_tool_prints_a_table_and_its_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One op is tried in seconds, the tables go between the markers of a page, and the exit code is 0."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: verification -->\nold\n<!-- end: verification -->\nafter\n", "utf-8")
    assert main(["--short", "--only", "log", "--markdown", str(page)]) == 0
    out = capsys.readouterr().out
    assert "| **log** | nanguard |" in out
    assert out.splitlines()[-1].startswith("Tried 1 op and 0 kinds of loss. All within")
    text = page.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "`tf.math.log`" in text


def test_an_error_of_what_should_be_0_is_large() -> None:
    """An ulp of 0 is the smallest number: what is 1e-7 and should be 0 is far off."""
    assert numbers.ulps(np.array([1e-7], np.float32), np.zeros(1), "float32")[0] > 1e30


@pytest.mark.parametrize("name", [name for name in row_truth.KERNELS if name.startswith("kl_")])
def test_divergences_are_0_between_equal_distributions(name: str) -> None:
    """The formula gives 0 there, counts an ulp at its terms, and gives NaN for parameters that are none."""
    kernel, num = row_truth.KERNELS[name], ops.OPS[name].operands
    half = np.full((1, 2), 0.5)
    same = {"kl_normal": (half * 0, half * 2), "kl_laplace": (half * 0, half * 2)}.get(name, (half,) * num)
    right, scale = kernel(*same)
    np.testing.assert_allclose(right, 0, atol=1e-15)
    assert (scale >= 0).all()
    bad = tuple(-operand - 1 for operand in same)
    with np.errstate(all="ignore"):
        assert np.isnan(kernel(*bad)[1]).all()
