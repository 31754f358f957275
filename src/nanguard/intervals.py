"""What an operand may be: intervals of numbers, and the float formats that bound them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanguard.errors import UsageError

__all__ = [
    "EMPTY",
    "EVERYTHING",
    "FINITE",
    "FLOAT_FORMATS",
    "FloatFormat",
    "Interval",
    "above",
    "at_least",
    "at_most",
    "below",
    "exactly",
    "float_format",
    "outside",
]


@dataclass(frozen=True)
class Interval:
    """A set of numbers between two ends, with or without NaN.

    The ends may be infinite. A closed end at infinity means that the infinity itself is a member, so `at_least(0)`
    holds `+inf` and `FINITE`, open at both ends, does not. An interval without any number has one form only,
    whatever ends it was made with, so that equality means the same set.

    Args:
        low: Lower end.
        high: Upper end.
        low_open: Whether `low` itself is left out.
        high_open: Whether `high` itself is left out.
        nan: Whether NaN is a member.

    Raises:
        ValueError: If an end is NaN.

    Example:

    >>> 1.0 in Interval(0, 1, high_open=True), 0.0 in Interval(0, 1, high_open=True)
    (False, True)
    """

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False
    nan: bool = False

    def __post_init__(self) -> None:
        low, high = float(self.low), float(self.high)
        if math.isnan(low) or math.isnan(high):
            raise ValueError(
                f"The ends of an interval must be numbers. Received: {low}, {high}. To hold NaN, set `nan=True`."
            )
        low_open, high_open = self.low_open, self.high_open
        if low > high or (low == high and (low_open or high_open)):
            low, high, low_open, high_open = math.inf, -math.inf, False, False
        for name, value in (("low", low), ("high", high), ("low_open", low_open), ("high_open", high_open)):
            object.__setattr__(self, name, value)

    @property
    def has_numbers(self) -> bool:
        """Whether any number, NaN aside, is a member."""
        return self.low <= self.high

    @property
    def is_empty(self) -> bool:
        """Whether nothing is a member, NaN included."""
        return not (self.has_numbers or self.nan)

    def contains(self, x: float) -> bool:
        """Whether `x`, which may be NaN or infinite, is a member. The same as `x in interval`."""
        if math.isnan(x):
            return self.nan
        above_low = x > self.low or (x == self.low and not self.low_open)
        below_high = x < self.high or (x == self.high and not self.high_open)
        return above_low and below_high

    __contains__ = contains

    def overlaps(self, other: Interval) -> bool:
        """Whether the two have a member, NaN included, in common."""
        return not self.intersect(other).is_empty

    def intersect(self, other: Interval) -> Interval:
        """Gives the members that both have."""
        # At equal ends the open one is the tighter: it sorts last among low ends and first among high ends.
        low, low_open = max((self.low, self.low_open), (other.low, other.low_open))
        high, high_closed = min((self.high, not self.high_open), (other.high, not other.high_open))
        return Interval(low, high, low_open, not high_closed, self.nan and other.nan)

    def hull(self, other: Interval) -> Interval:
        """Gives the smallest interval that holds both."""
        nan = self.nan or other.nan
        if not self.has_numbers or not other.has_numbers:
            whole = self if self.has_numbers else other
            return Interval(whole.low, whole.high, whole.low_open, whole.high_open, nan)
        low, low_open = min((self.low, self.low_open), (other.low, other.low_open))
        high, high_closed = max((self.high, not self.high_open), (other.high, not other.high_open))
        return Interval(low, high, low_open, not high_closed, nan)

    def __str__(self) -> str:
        if not self.has_numbers:
            return "NaN" if self.nan else "{}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        text = f"{left}{self.low:.9g}, {self.high:.9g}{right}" if self.low < self.high else f"{{{self.low:.9g}}}"
        return f"{text} or NaN" if self.nan else text


EMPTY = Interval(math.inf, -math.inf)
FINITE = Interval(-math.inf, math.inf, low_open=True, high_open=True)
EVERYTHING = Interval(-math.inf, math.inf, nan=True)


def at_most(x: float) -> Interval:
    """Gives all numbers `<= x`, with `-inf`."""
    return Interval(-math.inf, x)


def below(x: float) -> Interval:
    """Gives all numbers `< x`, with `-inf`."""
    return Interval(-math.inf, x, high_open=True)


def at_least(x: float) -> Interval:
    """Gives all numbers `>= x`, with `+inf`."""
    return Interval(x, math.inf)


def above(x: float) -> Interval:
    """Gives all numbers `> x`, with `+inf`."""
    return Interval(x, math.inf, low_open=True)


def exactly(x: float) -> Interval:
    """Gives the one number `x`, which may be infinite. Both zeros are the same number."""
    return Interval(x, x)


def outside(low: float, high: float) -> tuple[Interval, Interval]:
    """Gives all numbers that are not in `[low, high]`, as the part below and the part above.

    Two intervals and no third kind of set: whoever asks which part was hit has the answer.
    """
    return below(low), above(high)


@dataclass(frozen=True)
class FloatFormat:
    """A binary float format, and where its numbers end. Every limit is worked out from the two parameters.

    Args:
        name: TensorFlow's name of the dtype.
        precision: Bits of the significand, with the one that is not stored.
        max_exponent: Largest `e` for which `2**e` is finite.
    """

    name: str
    precision: int
    max_exponent: int

    @property
    def eps(self) -> float:
        """The gap between 1 and the next number."""
        return math.ldexp(1.0, 1 - self.precision)

    @property
    def max(self) -> float:
        """The largest finite number."""
        return math.ldexp(2.0 - self.eps, self.max_exponent)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number of full precision. TensorFlow's CPU kernels read most smaller ones as 0."""
        return math.ldexp(1.0, 1 - self.max_exponent)

    @property
    def floor(self) -> float:
        """The smallest number that a logarithm, root or denominator should be asked for.

        The square root of the smallest normal number, so that not only the slope `1 / x` but its square, which Adam
        keeps, is finite. In float16 that root, 0.0078, would change ordinary numbers: there it is the smallest
        normal number itself, and the square must be kept in float32.
        """
        return self.smallest_normal if self.name == "float16" else math.sqrt(self.smallest_normal)

    @property
    def exp_limit(self) -> float:
        """The largest number of the format whose `exp` is finite in it: 88.72283 in float32."""
        return self._round_down((self.max_exponent + 1) * math.log(2))

    @property
    def sinh_limit(self) -> float:
        """The largest number of the format whose `sinh` and `cosh` are finite in it: about `exp_limit` + 0.69."""
        return self._round_down((self.max_exponent + 2) * math.log(2))

    @property
    def square_limit(self) -> float:
        """The largest number of the format whose square is finite in it."""
        # The root of the overflow threshold 2**(max_exponent + 1) is a power of two, since that exponent is even in
        # all four formats; the number just below it is the last whose square stays under the largest finite one.
        return math.ldexp(1.0 - self.eps / 2, (self.max_exponent + 1) // 2)

    def _round_down(self, x: float) -> float:
        significand, exponent = math.frexp(x)
        return math.ldexp(math.floor(math.ldexp(significand, self.precision)), exponent - self.precision)


FLOAT_FORMATS = {
    format.name: format
    for format in (
        FloatFormat("float16", precision=11, max_exponent=15),
        FloatFormat("bfloat16", precision=8, max_exponent=127),
        FloatFormat("float32", precision=24, max_exponent=127),
        FloatFormat("float64", precision=53, max_exponent=1023),
    )
}


def float_format(dtype: str) -> FloatFormat:
    """Gives the format of a dtype by TensorFlow's name for it.

    Raises:
        UsageError: If it is none of the four that nanguard knows.

    Example:

    >>> float_format("float16").max
    65504.0
    """
    try:
        return FLOAT_FORMATS[dtype]
    except KeyError:
        known = ", ".join(FLOAT_FORMATS)
        raise UsageError(f"`dtype` must be one of {known}. Received: {dtype}.") from None
