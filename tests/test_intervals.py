"""Laws of the interval arithmetic, and the limits of the float formats beside NumPy's."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanguard.errors import NanguardError, UsageError
from nanguard.intervals import (
    EMPTY,
    EVERYTHING,
    FINITE,
    FLOAT_FORMATS,
    Interval,
    above,
    at_least,
    at_most,
    below,
    exactly,
    float_format,
    outside,
)

# Few numbers, so that ends meet often.
NUMBERS = st.one_of(st.sampled_from([-math.inf, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, math.inf]), st.floats(allow_nan=False))
VALUES = st.one_of(NUMBERS, st.just(math.nan))
INTERVALS = st.builds(Interval, NUMBERS, NUMBERS, st.booleans(), st.booleans(), st.booleans())


@given(INTERVALS, INTERVALS, VALUES)
def test_intersection_holds_what_both_hold(a, b, x):
    """A value is in the intersection exactly if it is in both."""
    assert (x in a.intersect(b)) == (x in a and x in b)


@given(INTERVALS, INTERVALS)
def test_intersection_and_hull_commute(a, b):
    """Neither depends on the order of its operands, nor does overlapping."""
    assert a.intersect(b) == b.intersect(a)
    assert a.hull(b) == b.hull(a)
    assert a.overlaps(b) == b.overlaps(a)


@given(INTERVALS, INTERVALS, INTERVALS)
def test_intersection_and_hull_associate(a, b, c):
    """Neither depends on how three operands are grouped."""
    assert a.intersect(b).intersect(c) == a.intersect(b.intersect(c))
    assert a.hull(b).hull(c) == a.hull(b.hull(c))


@given(INTERVALS, INTERVALS)
def test_absorption(a, b):
    """Intersecting with one's own hull changes nothing, and neither does the hull with one's own intersection."""
    assert a.intersect(a.hull(b)) == a
    assert a.hull(a.intersect(b)) == a


@given(INTERVALS, INTERVALS, VALUES)
def test_hull_holds_what_either_holds(a, b, x):
    """A value that is in one of two intervals is in their hull."""
    if x in a or x in b:
        assert x in a.hull(b)


@given(INTERVALS)
def test_neutral_elements(a):
    """EMPTY is neutral for the hull, EVERYTHING for the intersection."""
    assert a.hull(EMPTY) == a
    assert a.intersect(EVERYTHING) == a
    assert a.intersect(EMPTY) == EMPTY


@given(INTERVALS, INTERVALS, VALUES)
def test_overlap_has_a_witness(a, b, x):
    """A common value means overlap, and without overlap no value is common."""
    if x in a and x in b:
        assert a.overlaps(b)


@given(NUMBERS, NUMBERS, VALUES)
def test_constructors_say_what_they_are_called(x, y, value):
    """Each constructor holds exactly the numbers that its name says, and no NaN."""
    assert (value in at_most(x)) == (value <= x)
    assert (value in below(x)) == (value < x)
    assert (value in at_least(x)) == (value >= x)
    assert (value in above(x)) == (value > x)
    assert (value in exactly(x)) == (value == x)
    assert (value in FINITE) == math.isfinite(value)
    low, high = min(x, y), max(x, y)
    assert any(value in part for part in outside(low, high)) == (value < low or value > high)


def test_an_interval_without_numbers_has_one_form():
    """However it was written, the empty interval is equal to EMPTY, and only NaN sets it apart."""
    assert Interval(2, 1) == Interval(0, 0, low_open=True) == below(-math.inf) == EMPTY
    assert EMPTY.is_empty
    assert Interval(2, 1, nan=True) != EMPTY
    assert not Interval(2, 1, nan=True).is_empty
    assert not Interval(2, 1, nan=True).has_numbers


def test_nan_is_no_end():
    """An end that is NaN is refused with a way out."""
    with pytest.raises(ValueError, match="nan=True"):
        Interval(0, math.nan)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0, 1), "[0, 1]"),
        (Interval(0, 1, high_open=True, nan=True), "[0, 1) or NaN"),
        (above(88.72283172607422), "(88.7228317, inf]"),
        (exactly(0), "{0}"),
        (EMPTY, "{}"),
        (Interval(2, 1, nan=True), "NaN"),
    ],
)
def test_text(interval, text):
    """An interval is written as in mathematics."""
    assert str(interval) == text


def _scalar(dtype: str):
    return ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype).type


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
def test_formats_agree_with_numpy(dtype):
    """Largest, smallest normal number and eps are those of NumPy and ml_dtypes."""
    form, info = float_format(dtype), ml_dtypes.finfo(_scalar(dtype))
    assert (form.max, form.smallest_normal, form.eps) == (float(info.max), float(info.tiny), float(info.eps))


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
@pytest.mark.parametrize(
    ("limit", "function"), [("exp_limit", np.exp), ("sinh_limit", np.cosh), ("square_limit", np.square)]
)
def test_limits_are_the_last_finite_argument(dtype, limit, function):
    """At the limit the rounded result is finite, at the next number of the format it is not."""
    scalar = _scalar(dtype)
    last = scalar(getattr(float_format(dtype), limit))
    assert float(last) == getattr(float_format(dtype), limit)
    with np.errstate(over="ignore"):
        # In the widest type first: NumPy's own kernels for the narrow ones are not what is tested.
        rounded = [scalar(function(np.longdouble(x))) for x in (last, np.nextafter(last, scalar(np.inf)))]
    assert [bool(np.isfinite(x)) for x in rounded] == [True, False]


@pytest.mark.parametrize(
    ("dtype", "about"), [("float16", 11.09), ("bfloat16", 88.5), ("float32", 88.7228), ("float64", 709.7827)]
)
def test_exp_limit_is_the_known_number(dtype, about):
    """The limits of exp are the numbers that people know by heart."""
    assert float_format(dtype).exp_limit == pytest.approx(about, abs=5e-3)


@pytest.mark.parametrize(
    ("dtype", "floor"), [("float16", 6.1e-5), ("bfloat16", 1.08e-19), ("float32", 1.08e-19), ("float64", 1.49e-154)]
)
def test_floor_keeps_the_squared_slope_finite(dtype, floor):
    """The square of 1 / floor is finite in the format that optimizers keep it in."""
    form = float_format(dtype)
    assert form.floor == pytest.approx(floor, rel=1e-2)
    assert form.floor**-2 <= (float_format("float32") if dtype == "float16" else form).max


def test_unknown_format():
    """A dtype without float limits is a bad argument, and the message names those that have them."""
    with pytest.raises(UsageError, match=r"float16, bfloat16, float32, float64\. Received: int32"):
        float_format("int32")
    assert issubclass(UsageError, NanguardError)
