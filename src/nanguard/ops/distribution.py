"""Divergences between distributions that are given by parameters, finite for parameters at the edge and beyond it."""

from __future__ import annotations

import math

import tensorflow as tf

from nanguard.hazards import (
    ARITHMETIC_OVERFLOW,
    DIVISION_BY_ZERO,
    EXP_OVERFLOW,
    GAMMA_OF_NONPOSITIVE,
    LOG_GRADIENT_AT_ZERO,
    LOG_OF_NONPOSITIVE,
)
from nanguard.ops._bounds import clamp, format_of, largest_slope
from nanguard.ops._divergence import divergence, log_of_ratio, not_negative
from nanguard.ops._operation import TensorLike, cures


@cures(EXP_OVERFLOW, DIVISION_BY_ZERO, LOG_OF_NONPOSITIVE, ARITHMETIC_OVERFLOW, kind="other", operands=2)
def kl_normal(
    mean: TensorLike,
    scale: TensorLike | None = None,
    other_mean: TensorLike = 0.0,
    other_scale: TensorLike | None = None,
    *,
    log_variance: TensorLike | None = None,
    other_log_variance: TensorLike | None = None,
) -> tf.Tensor:
    """Kullback-Leibler divergence between normal distributions, element by element; by default from the standard one.

    Computes `((mean - other_mean) / other_scale) ** 2 / 2 + (r - 1 - log(r)) / 2` with `r` the ratio of the variances.
    So `kl_normal(mean, log_variance=...)`, summed over the latent axis, is the term of a VAE. Scales are clamped to
    `[1.1e-19, 9.2e18]` and log variances to `[-43.7, 43.7]` (float32), values are cut to the largest number, slopes
    are bounded; a parameter that is clamped learns as at the clamp, so that it comes back.

    A NaN in any parameter comes out as NaN. From log variances a value near 0 has an absolute error of about
    one eps.

    Args:
        mean: Floating tensor.
        scale: Standard deviation, meant to be `> 0`. Either this or `log_variance`.
        other_mean: Mean of the distribution that is measured against. Defaults to 0.
        other_scale: Its standard deviation. Defaults to 1, unless its log variance is given.
        log_variance: Logarithm of the variance, which a network can give without a positive activation.
        other_log_variance: That of the other distribution.

    Returns:
        Tensor of the broadcast shape, `>= 0`; finite for finite parameters.

    Raises:
        ValueError: If a distribution has no spread, or both a scale and a log variance.

    Example:

    >>> kl_normal([0.0, 1.0], log_variance=[0.0, 0.0]).numpy()
    array([0. , 0.5], dtype=float32)
    >>> kl_normal(0.0, log_variance=1000.0).numpy()
    np.float32(4.611693e+18)

    Cures:
        NG201 exp-overflow, NG105 division-by-zero, NG101 log-of-nonpositive, NG202 arithmetic-overflow

    References:
        Kingma, Welling, *Auto-Encoding Variational Bayes*, ICLR 2014, appendix B.
    """
    if (scale is None) == (log_variance is None) or not (other_scale is None or other_log_variance is None):
        raise ValueError(
            "Each normal distribution needs either its scale or its log variance. Received: "
            + ", ".join(
                f"{name}={'None' if value is None else 'given'}"
                for name, value in (
                    ("scale", scale),
                    ("log_variance", log_variance),
                    ("other_scale", other_scale),
                    ("other_log_variance", other_log_variance),
                )
            )
            + "."
        )
    is_log, is_other_log = scale is None, other_log_variance is not None

    def between_scales(mean: tf.Tensor, scale: tf.Tensor, other_mean: tf.Tensor, other_scale: tf.Tensor) -> tf.Tensor:
        # No logarithm is taken and exponentiated again, and all terms are positive.
        scale, other_scale = _in_range(scale), _in_range(other_scale)
        distance, excess = (mean - other_mean) / other_scale, (scale - other_scale) / other_scale
        return 0.5 * (tf.square(distance) + tf.square(excess)) + _excess_of_ratio(scale, other_scale)

    def between(mean: tf.Tensor, spread: tf.Tensor, other_mean: tf.Tensor, other_spread: tf.Tensor) -> tf.Tensor:
        log_variance = _log_variance(spread, is_log)
        other_log_variance = _log_variance(other_spread, is_other_log)
        distance = (mean - other_mean) * tf.exp(-0.5 * other_log_variance)
        return 0.5 * tf.square(distance) + 0.5 * _excess(log_variance - other_log_variance)

    spread = log_variance if scale is None else scale
    other_spread = other_log_variance if other_scale is None else other_scale
    if other_spread is None:
        is_other_log, other_spread = is_log, 0.0 if is_log else 1.0
    formula = between if is_log or is_other_log else between_scales
    return divergence(formula, mean, spread, other_mean, other_spread, keep_numbers=True)


@cures(DIVISION_BY_ZERO, LOG_OF_NONPOSITIVE, ARITHMETIC_OVERFLOW, kind="other", operands=2)
def kl_laplace(
    loc: TensorLike, scale: TensorLike, other_loc: TensorLike = 0.0, other_scale: TensorLike = 1.0
) -> tf.Tensor:
    """Kullback-Leibler divergence between Laplace distributions, element by element.

    Computes `r - 1 - log(r) + r * (exp(-t) - 1 + t)` with `r` the ratio of the scales and `t` the distance of the
    locations over `scale`. Scales are clamped to `[1.1e-19, 9.2e18]` (float32), the value is cut to the largest
    number, slopes are bounded; a scale that is clamped learns as at the clamp.

    A NaN in any parameter comes out as NaN.

    Args:
        loc: Floating tensor: where the distribution is centred.
        scale: Mean distance from `loc`, meant to be `> 0`.
        other_loc: That of the distribution that is measured against. Defaults to 0.
        other_scale: Its scale. Defaults to 1.

    Returns:
        Tensor of the broadcast shape, `>= 0`; finite for finite parameters.

    Example:

    >>> kl_laplace([0.0, 1.0], [1.0, 1.0]).numpy()
    array([0.        , 0.36787945], dtype=float32)

    Cures:
        NG105 division-by-zero, NG101 log-of-nonpositive, NG202 arithmetic-overflow

    References:
        Meyer, *An Alternative Probabilistic Interpretation of the Huber Loss*, CVPR 2021, appendix A.
    """

    def between(loc: tf.Tensor, scale: tf.Tensor, other_loc: tf.Tensor, other_scale: tf.Tensor) -> tf.Tensor:
        scale, other_scale = _in_range(scale), _in_range(other_scale)
        distance = tf.abs(loc - other_loc)
        # exp(-750) is 0 in all dtypes.
        far = tf.minimum(distance, 750 * scale)
        shrunk = scale * tf.math.expm1(-far / scale) + distance
        return _excess_of_ratio(scale, other_scale) + tf.maximum(shrunk, 0) / other_scale

    return divergence(between, loc, scale, other_loc, other_scale, keep_numbers=True)


@cures(DIVISION_BY_ZERO, LOG_OF_NONPOSITIVE, kind="other", operands=2)
def kl_exponential(rate: TensorLike, other_rate: TensorLike = 1.0) -> tf.Tensor:
    """Kullback-Leibler divergence between exponential distributions, element by element.

    Computes `r - 1 - log(r)` with `r = other_rate / rate`. Rates are clamped to `[1.1e-19, 9.2e18]` (float32), slopes
    are bounded; a rate that is clamped learns as at the clamp.

    A NaN in either comes out as NaN.

    Args:
        rate: Floating tensor, meant to be `> 0`.
        other_rate: That of the distribution that is measured against. Defaults to 1.

    Returns:
        Tensor of the broadcast shape, `>= 0`; finite for finite rates.

    Example:

    >>> kl_exponential([1.0, 2.0]).numpy()
    array([0.        , 0.19314718], dtype=float32)

    Cures:
        NG105 division-by-zero, NG101 log-of-nonpositive
    """

    def between(rate: tf.Tensor, other_rate: tf.Tensor) -> tf.Tensor:
        return _excess_of_ratio(_in_range(other_rate), _in_range(rate))

    return divergence(between, rate, other_rate, keep_numbers=True)


@cures(LOG_OF_NONPOSITIVE, LOG_GRADIENT_AT_ZERO, kind="other", operands=2)
def kl_poisson(rate: TensorLike, other_rate: TensorLike) -> tf.Tensor:
    """Kullback-Leibler divergence between Poisson distributions, element by element.

    Computes `rate * log(rate / other_rate) - rate + other_rate`. Rates are clamped to `[1.1e-19, 9.2e18]` (float32),
    slopes are bounded; a rate that is clamped learns as at the clamp, so that a linear output that went negative comes
    back.

    A NaN in either comes out as NaN.

    Args:
        rate: Floating tensor, meant to be `> 0`.
        other_rate: That of the distribution that is measured against.

    Returns:
        Tensor of the broadcast shape, `>= 0`; finite for finite rates.

    Example:

    >>> kl_poisson([1.0, 0.0], [1.0, 3.0]).numpy()
    array([0., 3.], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG307 log-gradient-at-zero
    """

    def between(rate: tf.Tensor, other_rate: tf.Tensor) -> tf.Tensor:
        rate, other_rate = _in_range(rate), _in_range(other_rate)
        return not_negative(rate * log_of_ratio(rate, other_rate) + (other_rate - rate))

    return divergence(between, rate, other_rate, keep_numbers=True)


@cures(GAMMA_OF_NONPOSITIVE, LOG_OF_NONPOSITIVE, DIVISION_BY_ZERO, kind="other", operands=4)
def kl_gamma(
    concentration: TensorLike, rate: TensorLike, other_concentration: TensorLike = 1.0, other_rate: TensorLike = 1.0
) -> tf.Tensor:
    """Kullback-Leibler divergence between gamma distributions, element by element.

    Computes `(a - b) * digamma(a) - lgamma(a) + lgamma(b) + b * log(rate / other_rate) + a * (other_rate / rate - 1)`
    for concentrations `a` and `b`. Concentrations are clamped to `[3.3e-10, 3.0e9]` and rates to `[1.1e-19, 9.2e18]`
    (float32), the value is cut to the largest number, slopes are bounded; a parameter that is clamped learns as at the
    clamp.

    A NaN in any parameter comes out as NaN. The terms cancel: for concentrations above 1e4 a float32 value has an
    absolute error of about 0.01 and more. Take float64 there.

    Args:
        concentration: Floating tensor, meant to be `> 0`.
        rate: Inverse scale, meant to be `> 0`.
        other_concentration: That of the distribution that is measured against. Defaults to 1.
        other_rate: Its rate. Defaults to 1.

    Returns:
        Tensor of the broadcast shape, `>= 0`; finite for finite parameters.

    Example:

    >>> kl_gamma([1.0, 1.0], [1.0, 2.0]).numpy()
    array([0.        , 0.19314718], dtype=float32)

    Cures:
        NG111 gamma-of-nonpositive, NG101 log-of-nonpositive, NG105 division-by-zero

    References:
        Soch, *The Book of Statistical Proofs*, proof P93, for the formula.
    """

    def between(a: tf.Tensor, rate: tf.Tensor, b: tf.Tensor, other_rate: tf.Tensor) -> tf.Tensor:
        a, b, rate, other_rate = _concentration(a), _concentration(b), _in_range(rate), _in_range(other_rate)
        of_shapes = (a - b) * tf.math.digamma(a) + (tf.math.lgamma(b) - tf.math.lgamma(a))
        of_rates = (a - b) * log_of_ratio(other_rate, rate) + a * _excess_of_ratio(other_rate, rate)
        return not_negative(of_shapes + of_rates)

    return divergence(between, concentration, rate, other_concentration, other_rate, keep_numbers=True)


@cures(GAMMA_OF_NONPOSITIVE, kind="other", operands=4)
def kl_beta(
    alpha: TensorLike, beta: TensorLike, other_alpha: TensorLike = 1.0, other_beta: TensorLike = 1.0
) -> tf.Tensor:
    """Kullback-Leibler divergence between beta distributions, element by element.

    It is that of Dirichlet distributions of two classes: see `kl_dirichlet` for formula, edges and accuracy. Against
    the default, the uniform distribution, it is the regulariser of evidential classifiers.

    A NaN in any parameter comes out as NaN.

    Args:
        alpha: Floating tensor, meant to be `> 0`.
        beta: Floating tensor, meant to be `> 0`.
        other_alpha: That of the distribution that is measured against. Defaults to 1.
        other_beta: Its beta. Defaults to 1.

    Returns:
        Tensor of the broadcast shape, `>= 0`; finite for finite parameters.

    Example:

    >>> kl_beta([1.0, 2.0], [1.0, 1.0]).numpy()
    array([0.        , 0.19314718], dtype=float32)

    Cures:
        NG111 gamma-of-nonpositive
    """

    def between(alpha: tf.Tensor, beta: tf.Tensor, other_alpha: tf.Tensor, other_beta: tf.Tensor) -> tf.Tensor:
        p, q = tf.stack([alpha, beta], -1), tf.stack([other_alpha, other_beta], -1)
        return tf.squeeze(_between_dirichlets(p, q, -1), -1)

    return divergence(between, alpha, beta, other_alpha, other_beta)


@cures(GAMMA_OF_NONPOSITIVE, kind="reduction", operands=2)
def kl_dirichlet(concentration: TensorLike, other_concentration: TensorLike = 1.0, axis: int = -1) -> tf.Tensor:
    """Kullback-Leibler divergence between Dirichlet distributions.

    Computes `lgamma(sum(a)) - lgamma(sum(b)) + sum(lgamma(b) - lgamma(a) + (a - b) * (digamma(a) - digamma(sum(a))))`.
    Concentrations are clamped to `[3.3e-10, 3.0e9]` (float32), the value is cut to the largest number, slopes are
    bounded; a concentration that is clamped learns as at the clamp: a class without evidence can gather some.

    A NaN in either makes the divergence NaN. The terms cancel: for concentrations above 1e4 a float32 value has an
    absolute error of about 0.01 and more. Take float64 there.

    Args:
        concentration: Floating tensor of the concentrations of the classes along `axis`, meant to be `> 0`.
        other_concentration: Those of the distribution that is measured against, broadcast. Defaults to 1, the uniform
            distribution.
        axis: The axis of the classes. Defaults to the last.

    Returns:
        Tensor without `axis`, `>= 0`; finite for finite concentrations.

    Example:

    >>> kl_dirichlet([[1.0, 1.0], [2.0, 1.0]]).numpy()
    array([0.        , 0.19314718], dtype=float32)

    Cures:
        NG111 gamma-of-nonpositive

    References:
        Sensoy, Kaplan, Kandemir, *Evidential Deep Learning to Quantify Classification Uncertainty*, NeurIPS 2018.
    """

    def between(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        return _between_dirichlets(p, q, axis)

    return tf.squeeze(divergence(between, concentration, other_concentration), axis)


def _in_range(x: tf.Tensor) -> tf.Tensor:
    """Gives a positive parameter between the numbers whose square and reciprocal's square are finite."""
    return clamp(x, format_of(x).floor, largest_slope(x), gradient="straight_through")


def _concentration(x: tf.Tensor) -> tf.Tensor:
    """Gives a positive parameter between the numbers whose fourth power, either way, is finite.

    The slope of digamma at a small number is one over its square.
    """
    limit = math.sqrt(largest_slope(x))
    return clamp(x, 1 / limit, limit, gradient="straight_through")


def _log_variance(spread: tf.Tensor, is_log: bool) -> tf.Tensor:
    if not is_log:
        return 2 * tf.math.log(_in_range(spread))
    limit = _log_of_largest_slope(spread)
    return clamp(spread, -limit, limit, gradient="straight_through")


def _log_of_largest_slope(x: tf.Tensor) -> float:
    return math.log(largest_slope(x))


def _excess(x: tf.Tensor) -> tf.Tensor:
    """Gives `exp(x) - 1 - x`, which is 0 at 0 and positive elsewhere, of the logarithm of a ratio in range.

    The ratio of the two ends of the range, 2 ** 126 in float32, is finite, so that nothing overflows.
    """
    return not_negative(tf.math.expm1(x) - x)


def _excess_of_ratio(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Gives `a / b - 1 - log(a / b)` of positive parameters in range."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def excess(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, object]:
        beyond = (a - b) / b

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return beyond / a * upstream, -beyond / b * upstream

        return tf.nn.relu(beyond - log_of_ratio(a, b)), backward

    return excess(a, b)


def _between_dirichlets(p: tf.Tensor, q: tf.Tensor, axis: int) -> tf.Tensor:
    p, q = _concentration(p), _concentration(q)
    p_total, q_total = tf.reduce_sum(p, axis, keepdims=True), tf.reduce_sum(q, axis, keepdims=True)
    of_classes = tf.math.lgamma(q) - tf.math.lgamma(p) + (p - q) * (tf.math.digamma(p) - tf.math.digamma(p_total))
    value = tf.math.lgamma(p_total) - tf.math.lgamma(q_total) + tf.reduce_sum(of_classes, axis, keepdims=True)
    return not_negative(value)
