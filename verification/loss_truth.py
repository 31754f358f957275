"""What each loss should give for one row, in mpmath: the formula itself, without any of the epsilons that guard it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath

from verification.truth import Number, exact_logcosh, exact_softplus

Row = Sequence[Number]
Exact = Callable[[Row, Row], Any]
"""Of a row of labels and a row of predictions. Gives the value, or the value and the number in whose ulp to count."""


def binary_crossentropy(y: Row, p: Row) -> Number:
    return _mean(_xlogy(t, q) + _xlogy(1 - t, 1 - q) for t, q in zip(y, p, strict=True)) * -1


def binary_crossentropy_logits(y: Row, z: Row) -> Number:
    return _mean(t * exact_softplus(-q) + (1 - t) * exact_softplus(q) for t, q in zip(y, z, strict=True))


def binary_focal(y: Row, p: Row) -> Number:
    return _mean(
        -((1 - (t * q + (1 - t) * (1 - q))) ** 2) * (_xlogy(t, q) + _xlogy(1 - t, 1 - q))
        for t, q in zip(y, p, strict=True)
    )


def binary_focal_logits(y: Row, z: Row) -> Number:
    def one(t: Number, q: Number) -> Number:
        # 1 - p_t by way of the sigmoid of both signs, so that nothing cancels.
        miss = t * _sigmoid(-q) + (1 - t) * _sigmoid(q)
        return miss**2 * (t * exact_softplus(-q) + (1 - t) * exact_softplus(q))

    return _mean(one(t, q) for t, q in zip(y, z, strict=True))


def categorical_crossentropy(y: Row, p: Row) -> tuple[Number, Number]:
    total = mpmath.fsum(p)
    return _of_sum(-mpmath.fsum(_xlogy(t, q / total) for t, q in zip(y, p, strict=True)))


def categorical_crossentropy_logits(y: Row, z: Row) -> tuple[Number, Number]:
    return _of_sum(mpmath.fsum(t * _minus_log_softmax(z, place) for place, t in enumerate(y) if t))


def categorical_focal(y: Row, p: Row) -> tuple[Number, Number]:
    value, scale = softmax_focal(y, p)
    return value / 4, scale / 4


def categorical_focal_logits(y: Row, z: Row) -> tuple[Number, Number]:
    value, scale = softmax_focal_logits(y, z)
    return value / 4, scale / 4


def softmax_focal(y: Row, p: Row) -> tuple[Number, Number]:
    total = mpmath.fsum(p)
    return _of_sum(mpmath.fsum(-(((total - q) / total) ** 2) * _xlogy(t, q / total) for t, q in zip(y, p, strict=True)))


def softmax_focal_logits(y: Row, z: Row) -> tuple[Number, Number]:
    def one(place: int, t: Number) -> Number:
        loss = _minus_log_softmax(z, place)
        return mpmath.expm1(-loss) ** 2 * t * loss

    return _of_sum(mpmath.fsum(one(place, t) for place, t in enumerate(y) if t))


def generalized_crossentropy(y: Row, p: Row) -> tuple[Number, Number]:
    of_class = mpmath.fsum(t * q for t, q in zip(y, p, strict=True))
    return (1 - mpmath.sqrt(of_class)) * 2, mpmath.mpf(1)


def kl_divergence(y: Row, p: Row) -> tuple[Number, Number]:
    terms = [_xlogy(t, t / q) if q else (mpmath.inf if t else q) for t, q in zip(y, p, strict=True)]
    # A rounding of p moves the sum by as much as a rounding of y, however near the two are.
    return mpmath.fsum(terms), max(mpmath.fsum(terms, absolute=True), mpmath.fsum(y))


def poisson(y: Row, p: Row) -> tuple[Number, Number]:
    terms = [(q, -_xlogy(t, q)) for t, q in zip(y, p, strict=True)]
    return _mean(a + b for a, b in terms), _mean(abs(a) + abs(b) for a, b in terms)


def squared_error(y: Row, p: Row) -> Number:
    return _mean((q - t) ** 2 for t, q in zip(y, p, strict=True))


def absolute_error(y: Row, p: Row) -> Number:
    return _mean(abs(q - t) for t, q in zip(y, p, strict=True))


def percentage_error(y: Row, p: Row) -> Number:
    # Below 1e-7 the definition itself has Keras's epsilon in the place of the target.
    smallest = mpmath.mpf("1e-6")
    return 100 * _mean(abs(q - t) / abs(t) if abs(t) > smallest else mpmath.nan for t, q in zip(y, p, strict=True))


def squared_log_error(y: Row, p: Row) -> tuple[Number, Number]:
    logs = [(mpmath.log1p(q), mpmath.log1p(t)) for t, q in zip(y, p, strict=True)]
    # Each logarithm is rounded before the difference is taken.
    return _mean((a - b) ** 2 for a, b in logs), _mean(2 * abs(a - b) * max(abs(a), abs(b)) for a, b in logs)


def log_cosh(y: Row, p: Row) -> Number:
    return _mean(exact_logcosh(q - t) for t, q in zip(y, p, strict=True))


def huber(y: Row, p: Row) -> Number:
    half = mpmath.mpf("0.5")
    return _mean(half * (q - t) ** 2 if abs(q - t) <= 1 else abs(q - t) - half for t, q in zip(y, p, strict=True))


def hinge(y: Row, p: Row) -> Number:
    return _mean(max(1 - t * q, mpmath.mpf(0)) for t, q in zip(y, p, strict=True))


def squared_hinge(y: Row, p: Row) -> Number:
    return _mean(max(1 - t * q, mpmath.mpf(0)) ** 2 for t, q in zip(y, p, strict=True))


def categorical_hinge(y: Row, p: Row) -> Number:
    positive = mpmath.fsum(t * q for t, q in zip(y, p, strict=True))
    negative = max((1 - t) * q for t, q in zip(y, p, strict=True))
    return max(negative - positive + 1, mpmath.mpf(0))


def cosine_similarity(y: Row, p: Row) -> tuple[Number, Number]:
    sizes = mpmath.sqrt(mpmath.fdot(y, y)) * mpmath.sqrt(mpmath.fdot(p, p))
    terms = [t * q / sizes for t, q in zip(y, p, strict=True)]
    return -mpmath.fsum(terms), mpmath.fsum(terms, absolute=True)


def dice(y: Row, p: Row) -> tuple[Number, Number]:
    return 1 - 2 * mpmath.fdot(y, p) / (mpmath.fsum(y) + mpmath.fsum(p)), mpmath.mpf(1)


def sigmoid_focal(y: Row, p: Row) -> Number:
    return _mean(
        -(t * (1 - q) ** 2 * mpmath.log(q) / 4 + 3 * (1 - t) * q**2 * mpmath.log(1 - q) / 4)
        if 0 < q < 1
        else mpmath.nan
        for t, q in zip(y, p, strict=True)
    )


def sigmoid_focal_logits(y: Row, z: Row) -> Number:
    return _mean(
        (t * _sigmoid(-q) ** 2 * exact_softplus(-q) + 3 * (1 - t) * _sigmoid(q) ** 2 * exact_softplus(q)) / 4
        for t, q in zip(y, z, strict=True)
    )


def quantile(y: Row, p: Row) -> Number:
    return absolute_error(y, p) / 2


def contrastive(y: Row, d: Row) -> Number:
    (t,), (q,) = y, d
    return t * q**2 + (1 - t) * max(1 - q, mpmath.mpf(0)) ** 2


def wasserstein(y: Row, p: Row) -> Number:
    return -_mean(t * q for t, q in zip(y, p, strict=True))


def poisson_nll(y: Row, x: Row) -> tuple[Number, Number]:
    rate, product = mpmath.exp(x[0]), y[0] * x[0]
    return rate - product, rate + abs(product)


def gaussian_nll(y: Row, p: Row) -> tuple[Number, Number]:
    mean, log_variance = p
    square = (y[0] - mean) ** 2 * mpmath.exp(-log_variance)
    return (log_variance + square) / 2, (abs(log_variance) + square) / 2


def normal_kl(y: Row, p: Row) -> tuple[Number, Number]:
    (m0, v0), (m, v) = y, p
    terms = [v0, -v, mpmath.mpf(-1), mpmath.exp(v - v0), (m - m0) ** 2 * mpmath.exp(-v0)]
    return mpmath.fsum(terms) / 2, mpmath.fsum(terms, absolute=True) / 2


def beta_nll(y: Row, p: Row) -> tuple[Number, Number]:
    t, a, b = y[0], mpmath.exp(p[0]), mpmath.exp(p[1])
    log_beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
    terms = [log_beta, -(a - 1) * mpmath.log(t), -(b - 1) * mpmath.log1p(-t)]
    return mpmath.fsum(terms), mpmath.fsum(terms, absolute=True)


def negative_binomial_nll(y: Row, p: Row) -> Number:
    t, m, r = y[0], mpmath.exp(p[0]), mpmath.exp(p[1])
    constant = mpmath.loggamma(r) + mpmath.loggamma(t + 1) - mpmath.loggamma(t + r)
    return constant + r * mpmath.log1p(m / r) + t * mpmath.log1p(r / m)


def jaccard(y: Row, p: Row) -> Number:
    hit, wrong = mpmath.fdot(y, p), _wrong(y, p)
    return wrong / (hit + wrong + 1)


def focal_tversky(y: Row, p: Row) -> Number:
    hit = mpmath.fdot(y, p)
    missed = mpmath.fdot(y, [1 - q for q in p])
    imagined = mpmath.fdot([1 - t for t in y], p)
    wrong = (7 * missed + 3 * imagined) / 10
    return mpmath.power(wrong / (hit + wrong + 1), mpmath.mpf(3) / 4)


def generalized_dice(y: Row, p: Row) -> Number:
    size = mpmath.fsum(y)
    weight = 1 / max(size, mpmath.mpf(1)) ** 2
    return weight * _wrong(y, p) / (weight * (size + mpmath.fsum(p)) + 1)


def _wrong(y: Row, p: Row) -> Number:
    return mpmath.fsum(t * (1 - q) + (1 - t) * q for t, q in zip(y, p, strict=True))


def _of_sum(value: Number) -> tuple[Number, Number]:
    # The probabilities, or their exponentials, are added up first: what is lost there is lost of a sum of 1 or more.
    return value, max(value, mpmath.mpf(1))


def _mean(terms: Any) -> Number:
    values = list(terms)
    return mpmath.fsum(values) / len(values)


def _xlogy(x: Number, y: Number) -> Number:
    if not x:
        return mpmath.mpf(0)
    return x * mpmath.log(y) if y > 0 else -mpmath.inf * mpmath.sign(x)


def _sigmoid(z: Number) -> Number:
    return mpmath.exp(-exact_softplus(-z))


def _minus_log_softmax(z: Row, place: int) -> Number:
    rest = mpmath.fsum(mpmath.exp(q - z[place]) for other, q in enumerate(z) if other != place)
    return mpmath.log1p(rest)


EXACT: dict[str, tuple[Exact, Exact | None]] = {
    "BinaryCrossentropy": (binary_crossentropy, binary_crossentropy_logits),
    "BinaryFocalCrossentropy": (binary_focal, binary_focal_logits),
    "CategoricalCrossentropy": (categorical_crossentropy, categorical_crossentropy_logits),
    "SparseCategoricalCrossentropy": (categorical_crossentropy, categorical_crossentropy_logits),
    "CategoricalFocalCrossentropy": (categorical_focal, categorical_focal_logits),
    "CategoricalGeneralizedCrossEntropy": (generalized_crossentropy, None),
    "KLDivergence": (kl_divergence, None),
    "Poisson": (poisson, None),
    "MeanSquaredError": (squared_error, None),
    "MeanAbsoluteError": (absolute_error, None),
    "MeanAbsolutePercentageError": (percentage_error, None),
    "MeanSquaredLogarithmicError": (squared_log_error, None),
    "LogCosh": (log_cosh, None),
    "Huber": (huber, None),
    "Hinge": (hinge, None),
    "SquaredHinge": (squared_hinge, None),
    "CategoricalHinge": (categorical_hinge, None),
    "CosineSimilarity": (cosine_similarity, None),
    "Dice": (dice, None),
    "SigmoidFocal": (sigmoid_focal, sigmoid_focal_logits),
    "SoftmaxFocal": (softmax_focal, softmax_focal_logits),
    "Quantile": (quantile, None),
    "RootMeanSquaredError": (absolute_error, None),  # of one number
    "Contrastive": (contrastive, None),
    "Wasserstein": (wasserstein, None),
    "PoissonNLL": (poisson_nll, None),
    "GaussianNLL": (gaussian_nll, None),
    "NormalKL": (normal_kl, None),
    "BetaNLL": (beta_nll, None),
    "NegativeBinomialNLL": (negative_binomial_nll, None),
    "Jaccard": (jaccard, None),
    "FocalTversky": (focal_tversky, None),
    "GeneralizedDice": (generalized_dice, None),
    "Tversky": (dice, None),  # the same at its default weights of 0.5
}
"""By the name of the class: of probabilities or values, and of logits."""
