"""The catalogue as a whole: complete, consistent, light, and easy to ask."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from nanguard import hazards
from nanguard.errors import UnknownHazardError, UsageError
from nanguard.intervals import FINITE, Interval, at_most, exactly

# The labels of the JSON report's `cause`.
CAUSES = {
    *("data_nan_inf", "data_bad_preprocessing", "data_missing_labels", "data_bad_annotation", "data_scale"),
    *("data_outlier", "label_out_of_range", "log_of_zero", "softmax_then_log", "div_by_zero", "domain_error"),
    *("empty_reduction", "all_masked_softmax", "ctc_infeasible", "exp_overflow", "fp16_range", "linalg_degenerate"),
    *("sqrt_norm_grad_at_zero", "pow_grad_at_zero", "where_gradient_trap", "acos_grad_at_one"),
    *("gradient_penalty_norm", "lr_too_high", "exploding_rnn", "lr_schedule_nan", "clip_spreads_nan"),
    *("batchnorm_poisoned", "weights_already_nan", "metric_only"),
}
FAMILY_OF_DIGIT = dict(zip("1234567", hazards.FAMILIES, strict=True))

every_hazard = pytest.mark.parametrize("hazard", hazards.ALL, ids=lambda hazard: hazard.code)


def test_codes_and_names_are_unique():
    """No code or name stands for two hazards."""
    assert len({hazard.code for hazard in hazards.ALL}) == len(hazards.ALL)
    assert len({hazard.name for hazard in hazards.ALL}) == len(hazards.ALL)


def test_codes_never_go_away():
    """Every code that was ever given is still there: users have written them into their settings."""
    given = {*range(101, 113), *range(201, 205), *range(301, 310), 401, 402, *range(501, 505), *range(601, 609)}
    given |= set(range(701, 708))
    assert {f"NG{number}" for number in given} <= {hazard.code for hazard in hazards.ALL}


def test_every_cause_has_a_hazard():
    """The causes of the report and those of the catalogue are the same."""
    assert {hazard.cause for hazard in hazards.ALL} == CAUSES


@every_hazard
def test_hazard_is_told_in_one_way(hazard):
    """Its constant, name, family and sentences follow the same form as all others."""
    assert getattr(hazards, hazard.name.upper().replace("-", "_")) is hazard
    assert hazard in hazards.FAMILIES[FAMILY_OF_DIGIT[hazard.code[2]]]
    for sentence in (hazard.summary, hazard.cure, hazard.why):
        assert sentence.endswith(".")
        assert sentence[0] not in " \n"
    assert len(hazard.summary) <= 78
    assert hazard.summary.count(". ") == 0
    assert 2 <= hazard.why.count(". ") + 1 <= 6
    for region in hazard.strikes:
        assert set(region.ops) <= set(hazard.ops)
    assert set(hazard.replacements) <= set(hazard.ops)


@every_hazard
def test_page_fits_a_screen(hazard):
    """`explain` gives everything that a reader needs in at most 35 lines of at most 88 columns."""
    page = hazards.explain(hazard)
    lines = page.splitlines()
    assert lines[0] == f"{hazard.code} {hazard.name}"
    assert len(lines) <= 35
    assert max(map(len, lines)) <= 88
    assert all(line == line.rstrip() for line in lines)
    unwrapped = " ".join(page.split())
    for said in (hazard.summary, hazard.why, hazard.needs, hazard.cure, hazard.bad, hazard.good, hazard.cause):
        assert " ".join(said.split()) in unwrapped


def test_page_as_printed():
    """The page of one hazard, whole."""
    assert hazards.explain(hazards.RSQRT_OF_ZERO) == (
        """\
NG107 rsqrt-of-zero
rsqrt(0) is infinite.

  why       A variance is exactly 0 for a constant channel, a blank image, or one
            sample. The gradient grows as x ** -1.5, so a tiny epsilon is not enough:
            1e-30 keeps the value finite and makes the gradient overflow. An epsilon
            below 3e-8 is 0 in float16.
  needs     x > 0
  cure      Add an epsilon of the size that layers use, tf.math.rsqrt(variance + 1e-6),
            or take ng.ops.rsqrt(x), which stays finite at 0 without one.
  bad       x = tf.constant([3.0, 3.0])
            (x - 3.0) * tf.math.rsqrt(tf.math.reduce_variance(x))
  good      x = tf.constant([3.0, 3.0])
            (x - 3.0) * ng.ops.rsqrt(tf.math.reduce_variance(x))
  cause     div_by_zero
  measured  TensorFlow 2.21, Keras 3.15, on the CPU"""
    )


def test_listing_has_one_line_for_each():
    """The listing groups by family, in the order of the codes, and no line is longer than 120 columns."""
    lines = hazards.listing().splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == list(hazards.FAMILIES)
    assert [line.split()[0] for line in lines if line.startswith(" ")] == [hazard.code for hazard in hazards.ALL]
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("key", ["NG101", "ng101", " log-of-nonpositive ", "Log-Of-Nonpositive"])
def test_get_takes_code_and_name(key):
    """A hazard is found by code or name, in any case."""
    assert hazards.get(key) is hazards.LOG_OF_NONPOSITIVE


def test_get_names_the_nearest():
    """An unknown name is a bad argument, and the message holds what was probably meant."""
    with pytest.raises(UnknownHazardError, match=r"Received: log-of-nonpositve\. Did you mean NG101 log-of-nonpos"):
        hazards.get("log-of-nonpositve")
    with pytest.raises(LookupError, match="`nanguard explain` lists all"):
        hazards.get("zzzzzz")
    assert issubclass(UnknownHazardError, UsageError)


@pytest.mark.parametrize(
    ("op", "phase", "codes"),
    [
        ("Log", "forward", ["NG103", "NG102", "NG101", "NG402", "NG401"]),
        ("Log", "backward", ["NG307", "NG309", "NG401"]),
        ("Sqrt", "backward", ["NG306", "NG301", "NG309", "NG401"]),
        ("Rsqrt", "forward", ["NG106", "NG107", "NG402", "NG401"]),
        ("Pow", "forward", ["NG110", "NG108", "NG202", "NG401"]),
        ("Cholesky", "backward", ["NG309", "NG401", "NG504"]),
        ("MatMul", "forward", ["NG204", "NG202", "NG401"]),
        ("RealDiv", "update", ["NG608"]),
        ("Relu", "forward", ["NG401"]),
    ],
)
def test_for_op_gives_the_most_specific_first(op, phase, codes):
    """What several hazards share is explained by the narrowest; those of any op come last."""
    found = [hazard.code for hazard in hazards.for_op(op, phase)]
    any_op = [hazard.code for hazard in hazards.ALL if hazards.ANY_OP in hazard.ops]
    assert sorted(found) == sorted(codes)
    assert [code for code in found if code not in any_op] == [code for code in codes if code not in any_op]
    assert all(code in any_op for code in found[len([code for code in codes if code not in any_op]) :])


@pytest.mark.parametrize(
    ("hazard", "op", "operands", "dtype", "is_struck"),
    [
        (hazards.LOG_OF_NONPOSITIVE, "Log", [Interval(0, 1)], "float32", True),
        (hazards.LOG_OF_NONPOSITIVE, "Log", [Interval(0.1, 1)], "float32", False),
        (hazards.LOG_OF_NONPOSITIVE, "Log", [Interval(0.1, 1, nan=True)], "float32", False),
        (hazards.LOG_OF_NEGATIVE, "Log", [Interval(0, 1)], "float32", False),
        (hazards.LOG_OF_NONPOSITIVE, "Log", [at_most(0)], "complex64", False),
        (hazards.EXP_OVERFLOW, "Exp", [Interval(0, 20)], "float16", True),
        (hazards.EXP_OVERFLOW, "Exp", [Interval(0, 20)], "float32", False),
        (hazards.POW_OF_ZERO_TO_NEGATIVE_POWER, "Pow", [Interval(0, 1), exactly(-1)], "float32", True),
        (hazards.POW_OF_ZERO_TO_NEGATIVE_POWER, "Pow", [Interval(0, 1), exactly(1)], "float32", False),
        (hazards.POW_OF_ZERO_TO_NEGATIVE_POWER, "Pow", [Interval(0, 1)], "float32", False),
        (hazards.ZERO_TIMES_INFINITY, "Mul", [exactly(0), exactly(-math.inf)], "float32", True),
        (hazards.ZERO_TIMES_INFINITY, "Mul", [exactly(0), FINITE], "float32", False),
        (hazards.INFINITY_MINUS_INFINITY, "Sum", [Interval(-math.inf, math.inf)], "float32", True),
        (hazards.INFINITY_MINUS_INFINITY, "Sum", [Interval(0, math.inf)], "float32", False),
        (hazards.DIVISION_BY_ZERO, "RealDiv", [exactly(0), exactly(1)], "float32", False),
        (hazards.DIVISION_BY_ZERO, "Reciprocal", [exactly(0)], "float32", True),
        (hazards.LABEL_OUT_OF_RANGE, "GatherV2", [FINITE, Interval(-1, 5)], "int64", True),
        (hazards.WHERE_GRADIENT_TRAP, "SelectV2", [FINITE, FINITE, FINITE], "float32", False),
    ],
)
def test_struck_by(hazard, op, operands, dtype, is_struck):
    """Operands strike a hazard exactly if they meet one of its regions for the op and dtype."""
    assert (hazard.struck_by(operands, dtype, op) is not None) == is_struck


def test_struck_by_gives_the_region_to_mask_with():
    """The region that was struck names the operands and the numbers, part by part."""
    region = hazards.POW_OF_ZERO_TO_NEGATIVE_POWER.struck_by([Interval(0, 1), exactly(-1)], "float32")
    assert [part.operand for part in region.parts] == [0, 1]
    assert 0.0 in region.parts[0].interval("float32")
    assert -1.0 in region.parts[1].interval("float32")


def test_rewrite_takes_the_floor_from_the_dtype():
    """A rewriting is an op of nanguard or holds the dtype's limits; there is none where no one call is the cure."""
    assert hazards.LOG_OF_NONPOSITIVE.rewrite("Log", ["p"], "float16") == "ng.ops.log(p)"
    rewrite = hazards.GAMMA_OF_NONPOSITIVE.rewrite
    assert rewrite("Lgamma", ["p"], "float16") == "tf.math.lgamma(tf.maximum(p, 6.1e-05))"
    assert rewrite("Lgamma", ["p"], "float64") == "tf.math.lgamma(tf.maximum(p, 1.5e-154))"
    assert hazards.EXP_OVERFLOW.rewrite("Cosh", ["a"], "bfloat16") == "tf.cosh(tf.clip_by_value(a, -88.0, 88.0))"
    assert hazards.DEGENERATE_MATRIX.rewrite("MatrixInverse", ["a"], "float32") is None


def test_importing_the_catalogue_is_light():
    """The catalogue loads neither TensorFlow nor Keras nor NumPy."""
    code = (
        "import sys, nanguard.hazards, nanguard.intervals, nanguard.errors;"
        "print(sorted({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
