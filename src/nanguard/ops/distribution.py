"""Entropies, and divergences between the usual distributions, finite for parameters at the edge and beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from nanguard.hazards import (
    ARITHMETIC_OVERFLOW,
    DIVISION_BY_ZERO,
    EXP_OVERFLOW,
    GAMMA_OF_NONPOSITIVE,
    LOG_GRADIENT_AT_ZERO,
    LOG_OF_NEGATIVE,
    LOG_OF_NONPOSITIVE,
    LOG_OF_SATURATED_PROBABILITY,
)
from nanguard.ops._bounds import ClampGradient, bounded, check_choice, clamp, format_of, largest_slope
from nanguard.ops._operation import TensorLike, cures, to_float
from nanguard.ops._scaling import cut, narrowed, widened
from nanguard.ops.softmax import log_softmax

_GRADIENTS = ("zero", "straight_through")


@cures(LOG_OF_NONPOSITIVE, LOG_OF_NEGATIVE, LOG_GRADIENT_AT_ZERO, kind="reduction")
def entropy(p: TensorLike, axis: int = -1, *, from_logits: bool = False) -> tf.Tensor:
    """Shannon entropy of probabilities or of logits, in nats.

    Computes `-sum(p * log(p))`, where an entry that is 0 adds 0 and has the slope `-log(floor)`, 43.7 in float32: a
    class that nothing speaks for can come back. Entries beyond `[0, 1]` count as its
    ends. From logits, `p` is their softmax, and
    nothing is lost where it rounds to 0 or 1.

    A NaN in `p` makes its entropy NaN.

    Args:
        p: Floating tensor of probabilities that sum to 1 along `axis`, or of logits. They are not normalised here.
        axis: The axis of the classes. Defaults to the last.
        from_logits: Whether `p` holds logits. Prefer them where you have them.

    Returns:
        Tensor without `axis`; finite for finite `p`.

    Example:

    >>> entropy([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).numpy()
    array([0.6931472, 0.       ], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG102 log-of-negative, NG307 log-gradient-at-zero
    """

    def of_probabilities(p: tf.Tensor) -> tf.Tensor:
        p = _unit_interval(p)
        # Not -sum: minus the sum of zeros would be -0.
        return tf.reduce_sum(p * -tf.math.log(clamp(p, low=format_of(p).floor)), axis, keepdims=True)

    def of_logits(z: tf.Tensor) -> tf.Tensor:
        logs = _log_probabilities(z, axis)
        return tf.reduce_sum(tf.exp(logs) * -logs, axis, keepdims=True)

    return tf.squeeze(_divergence(of_logits if from_logits else of_probabilities, p), axis)


@cures(
    LOG_OF_NONPOSITIVE,
    LOG_OF_SATURATED_PROBABILITY,
    LOG_GRADIENT_AT_ZERO,
    replaces=("keras.losses.kl_divergence",),
    kind="reduction",
    operands=2,
    aliases={"y_true": "p", "y_pred": "q"},
)
def kl_categorical(
    p: TensorLike, q: TensorLike, axis: int = -1, *, from_logits: bool = False, gradient: ClampGradient = "zero"
) -> tf.Tensor:
    """Kullback-Leibler divergence between categorical distributions, `sum(p * log(p / q))`.

    Computes it with both read at the dtype's floor at least, 1.1e-19 in float32, so that an entry with `p = 0` adds 0,
    and one with `q = 0` adds `43.7 * p`. Entries beyond `[0, 1]` count as its ends. The slope for `q` is `-p / q`,
    bounded. From logits, nothing is clamped short of 9.2e18, and a saturated mistake keeps its full gradient.

    A NaN in either makes the divergence NaN.

    Args:
        p: Floating tensor of probabilities along `axis`, or of logits: the distribution that is true.
        q: Floating tensor, broadcast with `p`: the one that is measured.
        axis: The axis of the classes. Defaults to the last.
        from_logits: Whether both hold logits. Prefer them where you have them.
        gradient: What a probability `q` below the floor learns: "zero", or "straight_through" for `-p / floor`. Zero is
            the default, as in `log`. Logits are always taught.

    Returns:
        Tensor without `axis`; finite for finite operands.

    Example:

    >>> kl_categorical([1.0, 0.0], [0.5, 0.5]).numpy()
    np.float32(0.6931472)
    >>> kl_categorical([1.0, 0.0], [0.0, 1.0]).numpy()
    np.float32(43.668274)

    Cures:
        NG101 log-of-nonpositive, NG103 log-of-saturated-probability, NG307 log-gradient-at-zero

    References:
        Kullback, Leibler, *On Information and Sufficiency*, Annals of Mathematical Statistics 22, 1951.
    """
    check_choice("gradient", gradient, _GRADIENTS)

    def of_probabilities(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(_relative_entropy(p, q, gradient), axis, keepdims=True)

    def of_logits(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        logs = _log_probabilities(p, axis)
        value = tf.reduce_sum(tf.exp(logs) * (logs - _log_probabilities(q, axis)), axis, keepdims=True)
        return _not_negative(value)

    return tf.squeeze(_divergence(of_logits if from_logits else of_probabilities, p, q), axis)


@cures(LOG_OF_NONPOSITIVE, LOG_OF_SATURATED_PROBABILITY, LOG_GRADIENT_AT_ZERO, kind="other", operands=2)
def kl_bernoulli(
    p: TensorLike, q: TensorLike, *, from_logits: bool = False, gradient: ClampGradient = "zero"
) -> tf.Tensor:
    """Kullback-Leibler divergence between Bernoulli distributions, element by element.

    Computes `p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))` with logarithms of at least the dtype's floor, and
    probabilities beyond `[0, 1]` counting as its ends. The slopes are bounded. From logits, nothing is clamped short
    of 9.2e18, and a saturated mistake keeps its full gradient.

    A NaN in either comes out as NaN.

    Args:
        p: Floating tensor of probabilities, or of logits: the distribution that is true.
        q: Floating tensor, broadcast with `p`: the one that is measured.
        from_logits: Whether both hold logits. Prefer them where you have them.
        gradient: What a logarithm below the floor teaches `q`: "zero", the default as in `log`, or
            "straight_through". Logits are always taught.

    Returns:
        Tensor of the broadcast shape; finite for finite operands.

    Example:

    >>> kl_bernoulli([0.5, 1.0], [0.5, 0.5]).numpy()
    array([0.       , 0.6931472], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG103 log-of-saturated-probability, NG307 log-gradient-at-zero
    """
    check_choice("gradient", gradient, _GRADIENTS)

    def of_probabilities(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        p, q, floor = _unit_interval(p), _unit_interval(q), format_of(p).floor
        rest, other_rest = 1 - p, 1 - q
        of_zeros = _log_of_ratio(clamp(rest, low=floor), clamp(other_rest, low=floor, gradient=gradient), q - p)
        return _not_negative(_relative_entropy(p, q, gradient) + rest * of_zeros)

    def of_logits(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        p, q = (clamp(x, -largest_slope(x), largest_slope(x), gradient="straight_through") for x in (p, q))
        log_p, log_1_minus_p = tf.math.log_sigmoid(p), tf.math.log_sigmoid(-p)
        of_ones = tf.exp(log_p) * (log_p - tf.math.log_sigmoid(q))
        return _not_negative(of_ones + tf.exp(log_1_minus_p) * (log_1_minus_p - tf.math.log_sigmoid(-q)))

    return _divergence(of_logits if from_logits else of_probabilities, p, q, keep_numbers=True)


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
    return _divergence(formula, mean, spread, other_mean, other_spread, keep_numbers=True)


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

    return _divergence(between, loc, scale, other_loc, other_scale, keep_numbers=True)


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

    return _divergence(between, rate, other_rate, keep_numbers=True)


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
        return _not_negative(rate * _log_of_ratio(rate, other_rate) + (other_rate - rate))

    return _divergence(between, rate, other_rate, keep_numbers=True)


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
        of_rates = (a - b) * _log_of_ratio(other_rate, rate) + a * _excess_of_ratio(other_rate, rate)
        return _not_negative(of_shapes + of_rates)

    return _divergence(between, concentration, rate, other_concentration, other_rate, keep_numbers=True)


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

    return _divergence(between, alpha, beta, other_alpha, other_beta)


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

    return tf.squeeze(_divergence(between, concentration, other_concentration), axis)


def _divergence(between: Callable[..., tf.Tensor], *parameters: TensorLike, keep_numbers: bool = False) -> tf.Tensor:
    """Gives `between(*parameters)`, cut to the largest number and with each of its slopes bounded.

    Args:
        between: What to compute, of tensors of one shape in at least float32. If it reduces an axis, it keeps it as 1.
        parameters: What came from the user.
        keep_numbers: Whether `between` takes Python numbers as scalars, which is cheaper than to spread them out.
    """
    first = next((p for p in parameters if not isinstance(p, int | float)), None)
    keep_numbers = keep_numbers and first is not None
    like = to_float(parameters[0] if first is None else first)
    tensors = [to_float(p, like=like) for p in parameters]
    dtype = tf.as_dtype(keras.backend.result_type(*(t.dtype.name for t in tensors)))
    tensors = [widened(tf.cast(t, dtype)) for t in tensors]
    limit = largest_slope(tf.zeros([], dtype))
    places = [i for i, p in enumerate(parameters) if not (keep_numbers and isinstance(p, int | float))]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def diverged(*spread: tf.Tensor) -> tuple[tf.Tensor, object]:
        def completed() -> list[tf.Tensor]:
            every = list(tensors)
            for place, tensor in zip(places, spread, strict=True):
                every[place] = tensor
            return every

        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(spread)
                value = between(*completed())
            return [bounded(slope, limit) * upstream for slope in tape.gradient(value, spread)]

        return cut(between(*completed())), backward

    return narrowed(diverged(*_broadcast([tensors[i] for i in places])), dtype)


def _broadcast(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    if all(t.shape.is_fully_defined() and t.shape == tensors[0].shape for t in tensors):
        return tensors
    shape = tf.shape(tensors[0])
    for t in tensors[1:]:
        shape = tf.broadcast_dynamic_shape(shape, tf.shape(t))
    return [tf.broadcast_to(t, shape) for t in tensors]


def _log_probabilities(logits: tf.Tensor, axis: int) -> tf.Tensor:
    # So far from the largest number that a sum over the classes is finite, and what it teaches too.
    return clamp(log_softmax(logits, axis), low=-largest_slope(logits), gradient="straight_through")


def _relative_entropy(p: tf.Tensor, q: tf.Tensor, gradient: ClampGradient) -> tf.Tensor:
    """Gives `p * log(p / q)`."""
    p, q, floor = _unit_interval(p), _unit_interval(q), format_of(p).floor
    # Not a difference of logarithms: of two of 20 that are nearly the same, five digits are left.
    return p * tf.math.log(clamp(p, low=floor) / clamp(q, low=floor, gradient=gradient))


def _not_negative(value: tf.Tensor) -> tf.Tensor:
    """Gives a divergence without what rounding may put below 0."""
    return clamp(value, low=0.0, gradient="straight_through")


def _unit_interval(p: tf.Tensor) -> tf.Tensor:
    return clamp(p, 0.0, 1.0, gradient="straight_through")


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
    return _not_negative(tf.math.expm1(x) - x)


def _excess_of_ratio(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Gives `a / b - 1 - log(a / b)` of positive parameters in range."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def excess(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, object]:
        beyond = (a - b) / b

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return beyond / a * upstream, -beyond / b * upstream

        return tf.nn.relu(beyond - _log_of_ratio(a, b)), backward

    return excess(a, b)


def _log_of_ratio(a: tf.Tensor, b: tf.Tensor, difference: tf.Tensor | None = None) -> tf.Tensor:
    """Gives `log(a / b)` of positive parameters in range, with all digits of what they differ by.

    Args:
        a: The numerator.
        b: The denominator.
        difference: `a - b`, where it is known better than by taking them from each other.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def log(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, object]:
        beyond = (a - b if difference is None else difference) / b
        value = tf.where(tf.abs(beyond) < 0.5, tf.math.log1p(beyond), tf.math.log(a / b))
        return value, lambda upstream: (upstream / a, -upstream / b)

    return log(a, b)


def _between_dirichlets(p: tf.Tensor, q: tf.Tensor, axis: int) -> tf.Tensor:
    p, q = _concentration(p), _concentration(q)
    p_total, q_total = tf.reduce_sum(p, axis, keepdims=True), tf.reduce_sum(q, axis, keepdims=True)
    of_classes = tf.math.lgamma(q) - tf.math.lgamma(p) + (p - q) * (tf.math.digamma(p) - tf.math.digamma(p_total))
    value = tf.math.lgamma(p_total) - tf.math.lgamma(q_total) + tf.reduce_sum(of_classes, axis, keepdims=True)
    return _not_negative(value)
