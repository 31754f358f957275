"""Negative log-likelihoods of the distributions that networks learn to predict."""

from __future__ import annotations

import functools
import math
from typing import Any

import tensorflow as tf

from nanguard.losses._base import FunctionLoss, same_rank
from nanguard.losses._entry import admit, admit_target, dismiss, like, mean_of_last_axis, parts, reach_of, registered
from nanguard.losses._rows import mean_over, row_loss, sum_over, summable, widen
from nanguard.ops._bounds import bounded, check_positive, clipped, format_of, largest_slope
from nanguard.ops._operation import TensorLike, to_float

LOG_OF_TWO_PI = math.log(2 * math.pi)

LARGEST_LOG_VARIANCE = 170.0
"""Beyond it the reciprocal of a deviation is 0 in float32, and 0 times an infinite error is NaN."""


@row_loss
def poisson_nll(y_true: TensorLike, y_pred: TensorLike, log_input: bool = True, full: bool = False) -> tf.Tensor:
    """Negative log-likelihood of counts under a Poisson distribution.

    Computes `exp(x) - t * x` from the logarithm `x` of the rate, or `r - t * log(r)` from the rate `r`; the mean over
    the last axis. Above 88.7 (float32) `exp` is read at its largest finite number, and its slope at most at 9.2e18.
    A rate below 1.1e-19, negative ones included, is read as that, with the slope there: a count that was thought
    impossible teaches. NaN stays NaN.

    Args:
        y_true: Counts `>= 0`, shape (..., n).
        y_pred: Log rates, any number, or rates, meant for `> 0`; shape as `y_true`.
        log_input: Whether `y_pred` holds log rates. Defaults to True: a linear output then needs no activation.
        full: Whether `log(t!)` is added, which depends on the target only. It is exact, not Stirling's approximation,
            which is off by 0.08 at 1. Defaults to False.

    Returns:
        Tensor of shape (...).

    Example:

    >>> poisson_nll([[0.0, 3.0]], [[0.0, 0.0]], full=True).numpy()  # The mean of 1 and of 1 + log(6).
    array([1.8958797], dtype=float32)

    Cures:
        NG201 exp-overflow, NG102 log-of-negative, NG101 log-of-nonpositive

    References:
        Cameron and Trivedi, *Regression Analysis of Count Data*, Cambridge 2013, §3.2.
    """
    values = mean_over(-1, _poisson_of_log if log_input else _poisson_of_rate, y_true, y_pred)
    if full:
        # Of the target alone; a count is whole, and beyond the reach nobody counts.
        values += mean_of_last_axis(tf.math.lgamma(1 + admit(y_true, low=0.0)))
    return dismiss(values, values.dtype)


@registered
def gaussian_nll(
    y_true: TensorLike,
    y_pred: TensorLike,
    log_variance: bool = True,
    epsilon: float = 1e-6,
    beta: float = 0.0,
    full: bool = False,
) -> tf.Tensor:
    """Negative log-likelihood under a normal distribution with a mean and a variance for each target.

    Computes `(log(v) + (t - m) ** 2 / v) / 2` with `v` no smaller than `epsilon`, and the mean over the last axis.
    Below that floor the slope of the variance is that at the floor, not 0: a variance that collapsed can grow again. A
    log variance above 170 is read as that. NaN stays NaN.

    With `beta` each term is multiplied by `v ** beta`, through which no gradient flows: a large variance then does not
    keep the mean from being learnt.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Means, then the logarithms of the variances, side by side: shape (..., 2 n).
        log_variance: Whether the second half holds logarithms. Defaults to True: no activation is needed. Otherwise
            it holds variances, meant for `> 0`.
        epsilon: Least variance, `> 0`. Defaults to 1e-6, for targets of unit scale.
        beta: Weight of the variance in [0, 1]. Defaults to 0, the plain likelihood; its paper recommends 0.5.
        full: Whether `log(2 pi) / 2` is added. Defaults to False.

    Returns:
        Tensor of shape (...).

    Raises:
        ValueError: If `epsilon` is not positive, `beta` is not in [0, 1], or the last axis cannot be halved.

    Example:

    >>> gaussian_nll([[1.0]], [[0.0, 0.0]]).numpy()
    array([0.5], dtype=float32)

    Cures:
        NG105 division-by-zero, NG101 log-of-nonpositive, NG201 exp-overflow

    References:
        Nix and Weigend, *Estimating the Mean and Variance of the Target Probability Distribution*, ICNN 1994.
        Seitzer et al., *On the Pitfalls of Heteroscedastic Uncertainty Estimation*, ICLR 2022 (`beta`).
    """
    check_positive("epsilon", epsilon, "1e-6")
    if not 0 <= beta <= 1:
        raise ValueError(f"`beta` must be in [0, 1]. Received: beta={beta}. For the plain likelihood, leave it out.")
    y_pred = to_float(y_pred)
    mean, spread = parts(widen(y_pred), 2)
    t, mean = same_rank(like(y_true, mean), mean)
    elements = functools.partial(_gaussian, log_variance=log_variance, epsilon=epsilon, beta=beta, full=full)
    return dismiss(mean_over(-1, elements, t, mean, spread), y_pred.dtype)


@registered
def beta_nll(y_true: TensorLike, y_pred: TensorLike, log_input: bool = True, epsilon: float = 1e-6) -> tf.Tensor:
    """Negative log-likelihood of fractions under a Beta distribution.

    Computes `log B(a, b) - (a - 1) * log(t) - (b - 1) * log(1 - t)` and its mean over the last axis. The work is done
    in float64: for large `a` and `b` the terms cancel, and float32 would have no digit left. Targets at 0 and 1, where
    the density is 0 or infinite, are read as `epsilon` away from the end. NaN stays NaN.

    Seitzer's beta-NLL, which is about a normal distribution, is `gaussian_nll(..., beta=0.5)`.

    Args:
        y_true: Fractions in [0, 1], shape (..., n).
        y_pred: Logarithms of `a`, then of `b`, side by side: shape (..., 2 n).
        log_input: Whether `y_pred` holds logarithms. Defaults to True: no activation is needed. Otherwise it holds `a`
            and `b`, meant for `> 0`. They are read between 8.9e-16 and 1.1e15, with the slope there.
        epsilon: Least distance of a target from 0 and 1, `> 0`. Defaults to 1e-6.

    Returns:
        Tensor of shape (...).

    Raises:
        ValueError: If `epsilon` is not positive, or the last axis cannot be halved.

    Example:

    >>> beta_nll([[0.5]], [[0.0, 0.0]]).numpy()  # a = b = 1 is the uniform distribution.
    array([0.], dtype=float32)

    Cures:
        NG111 gamma-of-nonpositive, NG101 log-of-nonpositive

    References:
        Ferrari and Cribari-Neto, *Beta Regression for Modelling Rates and Proportions*, J. Applied Statistics 2004.
    """
    check_positive("epsilon", epsilon, "1e-6")
    y_pred = to_float(y_pred)
    a, b = (_positive(part, log_input) for part in parts(y_pred, 2))
    t, a = same_rank(admit_target(y_true, a, epsilon, 1 - epsilon), a)
    log_beta = tf.math.lgamma(a) + tf.math.lgamma(b) - tf.math.lgamma(a + b)
    values = log_beta - (a - 1) * tf.math.log(t) - (b - 1) * tf.math.log1p(-t)
    return dismiss(mean_of_last_axis(values), y_pred.dtype)


@registered
def negative_binomial_nll(y_true: TensorLike, y_pred: TensorLike, log_input: bool = True) -> tf.Tensor:
    """Negative log-likelihood of counts under a negative binomial distribution with mean `m` and shape `r`.

    Its variance is `m + m ** 2 / r`. Computes
    `lgamma(r) + log(t!) - lgamma(t + r) + r * log(1 + m / r) + t * log(1 + r / m)` and its mean over the last axis, in
    float64, since for a large `r`, which is nearly a Poisson distribution, the terms cancel. NaN stays NaN.

    Args:
        y_true: Counts `>= 0`, shape (..., n); a negative one is read as 0.
        y_pred: Logarithms of the means, then of the shapes, side by side: shape (..., 2 n).
        log_input: Whether `y_pred` holds logarithms. Defaults to True: no activation is needed. Otherwise it holds `m`
            and `r`, meant for `> 0`. They are read between 8.9e-16 and 1.1e15, with the slope there.

    Returns:
        Tensor of shape (...).

    Raises:
        ValueError: If the last axis cannot be halved.

    Example:

    >>> negative_binomial_nll([[0.0]], [[0.0, 0.0]]).numpy()  # With m = r = 1, 0 is seen half of the time.
    array([0.6931472], dtype=float32)

    Cures:
        NG111 gamma-of-nonpositive, NG101 log-of-nonpositive

    References:
        Cameron and Trivedi, *Regression Analysis of Count Data*, Cambridge 2013, §3.3.
    """
    y_pred = to_float(y_pred)
    mean, shape = (_positive(part, log_input) for part in parts(y_pred, 2))
    t, mean = same_rank(admit_target(y_true, mean, 0.0, reach_of(tf.float32)), mean)
    values = (
        tf.math.lgamma(t + 1)
        - _log_rising_factorial(shape, t)
        + shape * tf.math.log1p(mean / shape)
        + t * tf.math.log1p(shape / mean)
    )
    return dismiss(mean_of_last_axis(values), y_pred.dtype)


@registered
def mixture_density(y_true: TensorLike, y_pred: TensorLike, components: int, epsilon: float = 1e-3) -> tf.Tensor:
    """Negative log-likelihood under a mixture of normal distributions with diagonal covariances.

    Computes `-logsumexp(log w + sum(-((t - m) / s) ** 2 / 2 - log s - log(2 pi) / 2))` over the components, where `w`
    is the softmax of the logits and the inner sum is over the dimensions of a target. A deviation below `epsilon` is
    read as that, with the slope there, so that no component shrinks onto one target, whose likelihood is unbounded.
    A logarithm of a deviation above 85 is read as that. NaN stays NaN.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Side by side the K logits, the K n means and the K n logarithms of the deviations, each component's n
            together: shape (..., K + 2 K n).
        components: Their number K, `>= 1`.
        epsilon: Least deviation, `> 0`. Defaults to 1e-3, for targets of unit scale.

    Returns:
        Tensor of shape (...).

    Raises:
        ValueError: If the last axis of `y_pred` does not have this length, or `epsilon` is not positive.

    Example:

    >>> mixture_density([[0.0]], [[0.0, 0.0, 0.0, 1e9, 0.0, 0.0]], components=2).numpy()  # log(2) + log(2 pi) / 2
    array([1.6120857], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG201 exp-overflow, NG105 division-by-zero

    References:
        Bishop, *Mixture Density Networks*, Aston University NCRG/94/004, 1994.
    """
    check_positive("epsilon", epsilon, "1e-3")
    y_pred, y_true = to_float(y_pred), tf.convert_to_tensor(y_true)
    if y_true.shape.rank == y_pred.shape.rank - 1:
        y_true = tf.expand_dims(y_true, -1)
    size = y_true.shape[-1]
    length = components * (1 + 2 * size)
    if y_pred.shape[-1] not in (None, length):
        raise ValueError(
            f"The last axis of `y_pred` must have {components} * (1 + 2 * {size}) = {length} numbers. "
            f"Received: shape={tuple(y_pred.shape)}."
        )
    each = tf.concat([tf.shape(y_pred)[:-1], [components, size]], axis=0)
    wide = widen(y_pred)
    logits, means, log_scales = tf.split(wide, [components, components * size, components * size], axis=-1)
    target = tf.expand_dims(like(y_true, wide), -2)
    elements = functools.partial(_normal_kernel, least=math.log(epsilon))
    misfit = sum_over(-1, elements, target, tf.reshape(means, each), tf.reshape(log_scales, each))
    log_weight = tf.nn.log_softmax(admit(logits), axis=-1)
    return dismiss(0.5 * size * LOG_OF_TWO_PI - tf.reduce_logsumexp(log_weight - misfit, axis=-1), y_pred.dtype)


class PoissonNLL(FunctionLoss, function=poisson_nll):
    """Poisson likelihood as a loss class; see `poisson_nll`."""


class GaussianNLL(FunctionLoss, function=gaussian_nll):
    """Likelihood of a normal distribution as a loss class; see `gaussian_nll`."""


class BetaNLL(FunctionLoss, function=beta_nll):
    """Likelihood of a Beta distribution as a loss class; see `beta_nll`."""


class NegativeBinomialNLL(FunctionLoss, function=negative_binomial_nll):
    """Likelihood of a negative binomial distribution as a loss class; see `negative_binomial_nll`."""


class MixtureDensity(FunctionLoss, function=mixture_density):
    """Likelihood of a mixture of normal distributions as a loss class; see `mixture_density`."""


def _log_rising_factorial(x: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """Gives `lgamma(x + t) - lgamma(x)`, by Stirling's series where the difference has too few digits."""
    series = (x + t - 0.5) * tf.math.log1p(t / x) + t * tf.math.log(x) - t + (1 / (x + t) - 1 / x) / 12
    return tf.where(x > 1e6, series, tf.math.lgamma(x + t) - tf.math.lgamma(x))


def _poisson_of_log(t: tf.Tensor, x: tf.Tensor) -> tuple[Any, ...]:
    rate = tf.exp(tf.minimum(x, tf.constant(format_of(x).exp_limit, x.dtype)))
    steepest = largest_slope(x)
    return (
        summable(rate - t * x),
        lambda upstream: upstream * bounded(-x, steepest),
        lambda upstream: upstream * bounded(tf.minimum(rate, tf.constant(steepest, x.dtype)) - t, steepest),
    )


def _poisson_of_rate(t: tf.Tensor, rate: tf.Tensor) -> tuple[Any, ...]:
    rate = tf.maximum(rate, tf.constant(format_of(rate).floor, rate.dtype))
    log = tf.math.log(rate)
    return (
        summable(rate - t * log),
        lambda upstream: -upstream * log,
        lambda upstream: upstream * bounded(1 - t / rate, largest_slope(rate)),
    )


def _gaussian(
    t: tf.Tensor, mean: tf.Tensor, spread: tf.Tensor, log_variance: bool, epsilon: float, beta: float, full: bool
) -> tuple[Any, ...]:
    if log_variance:
        log_v = clipped(spread, math.log(epsilon), LARGEST_LOG_VARIANCE)
        inverse = tf.exp(-0.5 * log_v)
    else:
        variance = tf.maximum(spread, tf.constant(epsilon, spread.dtype))
        log_v, inverse = tf.math.log(variance), tf.math.rsqrt(variance)
    # Neither is 0 where the other is infinite.
    z = (t - mean) * inverse
    # Of the second derivative too no part flows through it.
    weight = tf.stop_gradient(tf.exp(tf.minimum(beta * log_v, math.log(largest_slope(log_v))))) if beta else 1.0
    steepest = largest_slope(z)

    def of_mean(upstream: tf.Tensor) -> tf.Tensor:
        return -upstream * bounded(weight * (z * inverse), steepest)

    def of_spread(upstream: tf.Tensor) -> tf.Tensor:
        slope = 1 - tf.square(z) if log_variance else tf.square(inverse) - tf.square(z * inverse)
        return 0.5 * upstream * bounded(weight * slope, steepest)

    values = 0.5 * (log_v + tf.square(z) + (LOG_OF_TWO_PI if full else 0.0))
    return values if not beta else weight * values, lambda upstream: -of_mean(upstream), of_mean, of_spread


def _normal_kernel(t: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor, least: float) -> tuple[Any, ...]:
    log_scale = clipped(log_scale, least, LARGEST_LOG_VARIANCE / 2)
    inverse = tf.exp(-log_scale)
    z = (t - mean) * inverse
    steepest = largest_slope(z)

    def of_mean(upstream: tf.Tensor) -> tf.Tensor:
        return -upstream * bounded(z * inverse, steepest)

    def of_log_scale(upstream: tf.Tensor) -> tf.Tensor:
        return upstream * bounded(1 - tf.square(z), steepest)

    return 0.5 * tf.square(z) + log_scale, lambda upstream: -of_mean(upstream), of_mean, of_log_scale


def _positive(x: tf.Tensor, is_log: bool) -> tf.Tensor:
    """Gives a parameter in float64, between the reach of float32 and its reciprocal."""
    high = reach_of(tf.float32)
    low = 1 / high
    if is_log:
        return tf.exp(tf.cast(admit(x, math.log(low), math.log(high)), tf.float64))
    return tf.cast(admit(x, low, high), tf.float64)
