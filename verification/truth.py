"""What each op should give: a formula of mpmath, and one of float64 that is held against it.

A float64 formula is millions of times nearer to the truth than any float32 number, so it can judge ten million of them;
how near is measured by `kernel_error`. float64 results are judged by mpmath itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import mpmath
import numpy as np
import tensorflow as tf

from nanguard.intervals import float_format
from verification.numbers import Array, Floats, as_float64, ulps

PRECISION = 160  # bits with which mpmath computes: float64 has 53
KERNEL_BAR = 2.0**-30  # relative error of a float64 formula that cannot move a float32 figure

Number = Any
"""A number of mpmath, which carries no types."""


@dataclass(frozen=True)
class Truth:
    """The right value of an op with one or two operands.

    Args:
        exact: Of mpmath's numbers, without cancellation.
        kernel: Of float64 arrays.
        num_operands: How many they take.
    """

    exact: Callable[..., Number]
    kernel: Callable[..., Floats]
    num_operands: int = 1

    def errors(self, value: Array, operands: Sequence[Array], dtype: str) -> tuple[Floats, Floats]:
        """Gives the truth, rounded to float64, and the distance of each value from it in ulp of `dtype`."""
        if dtype == "float64":
            return self._errors_of_float64(as_float64(value), [as_float64(operand) for operand in operands])
        with np.errstate(all="ignore"):
            truth = self.kernel(*[as_float64(operand) for operand in operands])
        return truth, ulps(value, truth, dtype)

    def _errors_of_float64(self, value: Floats, operands: Sequence[Floats]) -> tuple[Floats, Floats]:
        limits = float_format("float64")
        truth, error = np.zeros(len(value)), np.zeros(len(value))
        with mpmath.workprec(PRECISION):
            for place, numbers in enumerate(zip(value.tolist(), *[x.tolist() for x in operands], strict=True)):
                exact = self.exact(*[mpmath.mpf(number) for number in numbers[1:]])
                if isinstance(exact, mpmath.mpc) or not mpmath.isfinite(exact):
                    truth[place] = error[place] = math.nan
                    continue
                truth[place] = float(exact)
                exponent = max(math.frexp(truth[place])[1], 2 - limits.max_exponent)
                error[place] = float(abs(mpmath.mpf(numbers[0]) - exact) / mpmath.ldexp(1, exponent - limits.precision))
        return truth, error

    def kernel_error(self, operands: Sequence[Array]) -> float:
        """Gives the largest relative error of the float64 formula at some operands."""
        arrays = [as_float64(operand) for operand in operands]
        with np.errstate(all="ignore"):
            computed = self.kernel(*arrays).tolist()
        worst = 0.0
        with mpmath.workprec(PRECISION):
            for value, *numbers in zip(computed, *[x.tolist() for x in arrays], strict=True):
                exact = self.exact(*[mpmath.mpf(number) for number in numbers])
                if isinstance(exact, mpmath.mpc) or not mpmath.isfinite(exact):
                    continue
                if abs(exact) < float_format("float64").smallest_normal:
                    continue  # far below anything that float32 can hold
                worst = max(worst, float(abs(mpmath.mpf(value) - exact) / abs(exact)))
        return worst


def _logcosh(x: Floats) -> Floats:
    size = np.abs(x)
    near = 0.5 * np.log1p(np.sinh(np.minimum(size, 1.0)) ** 2)
    return np.where(size < 1, near, size + np.log1p(np.exp(-2 * size)) - math.log(2))


def _softplus(x: Floats) -> Floats:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: Floats) -> Floats:
    part = np.exp(-np.abs(x))
    return np.where(x < 0, part, 1) / (1 + part)


def exact_softplus(x: Number) -> Number:
    # log1p(exp(x)) would ask for a number of 1e300 digits at 1e300; its terms never cancel in this form.
    return max(x, mpmath.mpf(0)) + mpmath.log1p(mpmath.exp(-abs(x)))


def exact_logcosh(x: Number) -> Number:
    size = abs(x)
    if size < 1:
        return mpmath.log1p(2 * mpmath.sinh(size / 2) ** 2)
    return size + mpmath.log1p(mpmath.exp(-2 * size)) - mpmath.log(2)


def _erfinv(x: Floats) -> Floats:
    # TensorFlow's is ndtri((1 + x) / 2), which is 0 for the smallest x; their series is 14 digits good up to 0.1.
    square = math.pi * x * x
    factors = 34807 / 182476800, 4369 / 5806080, 127 / 40320, 7 / 480, 1 / 12, 1.0
    series: Floats = x * (math.sqrt(math.pi) / 2) * np.polyval(factors, square)
    return np.where(np.abs(x) < 0.1, series, tf.math.erfinv(x).numpy())


def _exact_erfinv(x: Number) -> Number:
    if abs(x) > 1e-3:
        return mpmath.erfinv(x)
    # mpmath's own gives 0 for the smallest numbers. Each of Newton's steps doubles the digits of the first-order guess.
    y = x * mpmath.sqrt(mpmath.pi) / 2
    for _ in range(5):
        y -= (mpmath.erf(y) - x) * mpmath.sqrt(mpmath.pi) / 2 * mpmath.exp(y * y)
    return y


def _exact_ndtri(p: Number) -> Number:
    if not 0 < p < 1:
        return mpmath.nan
    z = mpmath.mpf(NormalDist().inv_cdf(float(p)))
    for _ in range(3):
        z -= (mpmath.erfc(-z / mpmath.sqrt(2)) / 2 - p) * mpmath.sqrt(2 * mpmath.pi) * mpmath.exp(z * z / 2)
    return z


def _exact_pow(x: Number, y: Number) -> Number:
    if x < 0:  # A safe plain power has a whole exponent here.
        return mpmath.power(-x, y) * (-1 if int(y) % 2 else 1)
    return mpmath.power(x, y)


def _exact_atan2(y: Number, x: Number) -> Number:
    # mpmath has one zero, and on the negative axis its sign is the sign of the angle.
    return mpmath.atan2(y, x) if y or x > 0 else mpmath.nan


LOG2 = Truth(lambda x: mpmath.log(x) / mpmath.log(2), np.log2)

TRUTHS: dict[str, Truth] = {
    "log": Truth(mpmath.log, np.log),
    "log2": LOG2,
    "log10": Truth(mpmath.log10, np.log10),
    "log1p": Truth(mpmath.log1p, np.log1p),
    "exp": Truth(mpmath.exp, np.exp),
    "expm1": Truth(mpmath.expm1, np.expm1),
    "sinh": Truth(mpmath.sinh, np.sinh),
    "cosh": Truth(mpmath.cosh, np.cosh),
    "softplus": Truth(exact_softplus, _softplus),
    "logsigmoid": Truth(lambda x: -exact_softplus(-x), lambda x: -_softplus(-x)),
    "sigmoid": Truth(lambda x: 1 / (1 + mpmath.exp(-x)), _sigmoid),
    "logcosh": Truth(exact_logcosh, _logcosh),
    "sqrt": Truth(mpmath.sqrt, np.sqrt),
    "rsqrt": Truth(lambda x: 1 / mpmath.sqrt(x), lambda x: 1 / np.sqrt(x)),
    "square": Truth(lambda x: x * x, np.square),
    "reciprocal": Truth(lambda x: 1 / x, np.reciprocal),
    "acos": Truth(mpmath.acos, np.arccos),
    "asin": Truth(mpmath.asin, np.arcsin),
    "acosh": Truth(mpmath.acosh, np.arccosh),
    "atanh": Truth(mpmath.atanh, np.arctanh),
    "erfinv": Truth(_exact_erfinv, _erfinv),
    "ndtri": Truth(_exact_ndtri, lambda p: np.asarray(tf.math.ndtri(p).numpy(), np.float64)),
    "where_finite": Truth(lambda x: x, lambda x: x),
    "select": Truth(  # as `verification/ways.py` calls it
        lambda x: mpmath.log(x) if x > 2**-10 else mpmath.mpf(0),
        lambda x: np.where(x > 2**-10, np.log(x), 0),
    ),
    "nan_to_num": Truth(lambda x: x, lambda x: x),
    "divide": Truth(lambda x, y: x / y, np.divide, 2),
    "xlogy": Truth(lambda x, y: x * mpmath.log(y) if x else x, lambda x, y: np.where(x == 0, 0, x * np.log(y)), 2),
    "xlog1py": Truth(
        lambda x, y: x * mpmath.log1p(y) if x else x, lambda x, y: np.where(x == 0, 0, x * np.log1p(y)), 2
    ),
    "pow": Truth(_exact_pow, np.power, 2),
    "atan2": Truth(_exact_atan2, np.arctan2, 2),
}
OTHER_NAMES = {
    "log_sigmoid": "logsigmoid",
    "power": "pow",
    "arccos": "acos",
    "arcsin": "asin",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "arctan2": "atan2",
}


def truth_of(name: str) -> Truth | None:
    """Gives the truth of an op by its name, None where none is written down."""
    return TRUTHS.get(OTHER_NAMES.get(name, name))
