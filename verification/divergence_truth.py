"""What entropies and divergences should give, in float64, and the numbers in whose last place to count.

They are sums of terms that cancel where two distributions are alike. So an ulp is counted at the sum of the sizes of
the terms of the formula in the op's docstring. NaN stands for parameters that are none.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from verification.numbers import Floats

Sums = tuple[Floats, Floats]
SMALLEST = 1e-15  # of a parameter, which is far from where any op clamps it
LARGEST = 1e15


def entropy(p: Floats) -> Sums:
    terms = np.where(p > 0, -p * np.log(_probability(p)), _probability(p) * 0)
    return terms.sum(axis=-1), terms.sum(axis=-1)


def categorical(p: Floats, q: Floats) -> Sums:
    terms = _relative(p, q)
    # A rounding of the ratio moves a term by a rounding of p, however near 1 the ratio is.
    return terms.sum(axis=-1), (np.abs(terms) + p).sum(axis=-1)


def bernoulli(p: Floats, q: Floats) -> Sums:
    # 1 - p with the digits of p, where that is tiny.
    rest = np.where(
        p < 1,
        (1 - p) * (np.log1p(-_probability(p)) - np.log1p(-_probability(q))),
        _probability(p) * _probability(q) * 0,
    )
    terms = _relative(p, q)
    return terms + rest, np.abs(terms) + np.abs(rest) + p


def normal(mean: Floats, scale: Floats) -> Sums:
    variance = _parameter(scale) ** 2
    terms = [mean**2 / 2, (variance - 1) / 2, -np.log(_parameter(scale))]
    return _sum(terms)


def laplace(loc: Floats, scale: Floats) -> Sums:
    distance = np.abs(loc) / _parameter(scale)
    return _sum([scale - 1, -np.log(_parameter(scale)), scale * np.expm1(-distance), scale * distance])


def exponential(rate: Floats, other_rate: Floats) -> Sums:
    ratio = _parameter(other_rate) / _parameter(rate)
    return _sum([(other_rate - rate) / rate, -np.log(ratio)])


def poisson(rate: Floats, other_rate: Floats) -> Sums:
    return _sum([rate * np.log(_parameter(rate) / _parameter(other_rate)), other_rate - rate])


def gamma(a: Floats, rate: Floats, b: Floats, other_rate: Floats) -> Sums:
    a, b, log_ratio = _shape(a), _shape(b), np.log(_parameter(other_rate) / _parameter(rate))
    shapes = [(a - b) * special.digamma(a), special.gammaln(b), -special.gammaln(a)]
    return _sum([*shapes, -b * log_ratio, a * (other_rate - rate) / rate])


def beta(a: Floats, b: Floats, other_a: Floats, other_b: Floats) -> Sums:
    return dirichlet(np.stack([a, b], axis=-1), np.stack([other_a, other_b], axis=-1))


def dirichlet(p: Floats, q: Floats) -> Sums:
    p, q = _shape(p), _shape(q)
    total, other_total = p.sum(axis=-1), q.sum(axis=-1)
    terms = [special.gammaln(q), -special.gammaln(p), (p - q) * special.digamma(p)]
    terms.append(-(p - q) * special.digamma(total)[..., None])
    of_classes = [term.sum(axis=-1) for term in terms]
    sizes = [np.abs(term).sum(axis=-1) for term in terms]
    value, size = _sum([special.gammaln(total), -special.gammaln(other_total)])
    return value + sum(of_classes), size + sum(sizes)


def _sum(terms: list[Floats]) -> Sums:
    return np.sum(terms, axis=0), np.sum(np.abs(terms), axis=0)


def _relative(p: Floats, q: Floats) -> Floats:
    """Gives `p * log(p / q)`, NaN where it is infinite."""
    p, q = _probability(p), _probability(q)
    return np.where(p > 0, p * np.log(p / np.where(q >= SMALLEST, q, np.nan)), p * q)


def _probability(p: Floats) -> Floats:
    return np.where((p >= 0) & (p <= 1), p, np.nan)


def _parameter(x: Floats) -> Floats:
    return np.where((x >= SMALLEST) & (x <= LARGEST), x, np.nan)


def _shape(x: Floats) -> Floats:
    """Gives the shape of a gamma, beta or Dirichlet distribution; their docstrings warn of larger ones."""
    return np.where((x >= 1e-6) & (x <= 1e4), x, np.nan)
