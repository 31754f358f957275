"""Losses of variational inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._entry import admit, admit_target, dismiss, like, parts, registered
from nanguard.losses._rows import sum_over, widen
from nanguard.losses.likelihood import LARGEST_LOG_VARIANCE
from nanguard.ops._bounds import bounded, clipped, format_of, largest_slope
from nanguard.ops._operation import TensorLike, to_float


@registered
def normal_kl(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Kullback-Leibler divergence of one normal distribution of independent variables from another.

    Computes `KL(q || p) = sum(v0 - v - 1 + exp(v - v0) + (m - m0) ** 2 * exp(-v0)) / 2`, where `q` has the means `m`
    and log variances `v`, and `p` has `m0` and `v0`. An exponential that would overflow is read at the largest finite
    number, with a slope whose square is finite: a log variance that ran away is called back. In the term of the means,
    log variances of `p` are read between -170 and 170. NaN stays NaN.

    Args:
        y_true: Means, then log variances of `p`, side by side: shape (..., 2 n). Zeros, or the number 0, are the
            standard normal distribution, the usual prior.
        y_pred: Means, then log variances of `q`, side by side: shape (..., 2 n).

    Returns:
        Tensor of shape (...), `>= 0`.

    Raises:
        ValueError: If the last axis cannot be halved.

    Example:

    >>> normal_kl(0.0, [[1.0, 0.0], [0.0, 1000.0]]).numpy()
    array([5.0000000e-01, 1.7013993e+38], dtype=float32)

    Cures:
        NG201 exp-overflow

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, ICLR 2014, appendix B.
    """
    y_pred, y_true = to_float(y_pred), tf.convert_to_tensor(y_true)
    mean, log_v = parts(widen(y_pred), 2)
    if y_true.shape.rank == 0:
        y_true = tf.fill([2], y_true)
    prior_mean, prior_log_v = parts(like(y_true, mean), 2)
    return dismiss(sum_over(-1, _divergence, prior_mean, prior_log_v, mean, log_v), y_pred.dtype)


@registered
def elbo(
    y_true: TensorLike,
    y_pred: tuple[TensorLike, TensorLike],
    beta: float = 1.0,
    reconstruction: str | Callable[[Any, Any], Any] = "bernoulli",
) -> tf.Tensor:
    """Negative evidence lower bound of a variational autoencoder, per sample.

    Computes `sum(reconstruction) + beta * KL(q || N(0, 1))`, with the first sum over all axes but the first. The
    divergence is that of `normal_kl`. NaN stays NaN.

    Args:
        y_true: What was to be reconstructed, shape (batch, ...).
        y_pred: The reconstruction, of the shape of `y_true`, and the means and log variances of the latent variables,
            side by side: shape (batch, 2 n).
        beta: Weight of the divergence, `>= 0`. Defaults to 1, the bound itself; above 1 the latent variables part.
        reconstruction: "bernoulli" for the cross-entropy of logits with targets in [0, 1]; "gaussian" for half the
            squared error, which is the likelihood with unit variance; or a function of both that gives a value for
            each sample or each element. Defaults to "bernoulli".

    Returns:
        Tensor of shape (batch,).

    Raises:
        ValueError: If `reconstruction` is another string, or `beta` is negative.

    Example:

    >>> image, logits, latent = np.ones((1, 4), "float32"), np.zeros((1, 4), "float32"), np.zeros((1, 6), "float32")
    >>> elbo(image, (logits, latent)).numpy()  # 4 log(2)
    array([2.7725887], dtype=float32)

    Cures:
        NG201 exp-overflow, NG103 log-of-saturated-probability

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, ICLR 2014, eq. 10.
        Higgins et al., *beta-VAE*, ICLR 2017 (`beta`).
    """
    if not beta >= 0:
        raise ValueError(f"`beta` must not be negative. Received: beta={beta}. For the bound itself, leave it out.")
    if isinstance(reconstruction, str) and reconstruction not in ("bernoulli", "gaussian"):
        raise ValueError(
            "`reconstruction` must be bernoulli, gaussian or a function of the targets and the predictions. "
            f"Received: reconstruction={reconstruction!r}."
        )
    output, latent = to_float(y_pred[0]), y_pred[1]
    x = admit(output)
    if callable(reconstruction):
        errors = tf.cast(reconstruction(y_true, output), x.dtype)
    elif reconstruction == "bernoulli":
        errors = tf.nn.sigmoid_cross_entropy_with_logits(admit_target(y_true, x), x)
    else:
        errors = 0.5 * tf.square(admit_target(y_true, x) - x)
    divergence = tf.cast(normal_kl(0.0, admit(latent)), x.dtype)
    return dismiss(tf.reduce_sum(errors, axis=list(range(1, errors.shape.rank))) + beta * divergence, output.dtype)


class NormalKL(FunctionLoss, function=normal_kl):
    """Divergence of two normal distributions as a loss class; see `normal_kl`."""


class ELBO(FunctionLoss, function=elbo):
    """Negative evidence lower bound as a loss class, for predictions that come as a pair; see `elbo`."""


def _divergence(prior_mean: tf.Tensor, prior_log_v: tf.Tensor, mean: tf.Tensor, log_v: tf.Tensor) -> tuple[Any, ...]:
    inverse = tf.exp(-0.5 * clipped(prior_log_v, -LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE))
    change = tf.minimum(log_v - prior_log_v, tf.constant(format_of(mean).exp_limit, mean.dtype))
    growth = tf.math.expm1(change)
    # No infinity but +inf arises here, and none meets a 0.
    z = (mean - prior_mean) * inverse
    steepest = largest_slope(z)

    def of_mean(upstream: tf.Tensor) -> tf.Tensor:
        return upstream * bounded(z * inverse, steepest)

    def of_log_v(upstream: tf.Tensor) -> tf.Tensor:
        return 0.5 * upstream * bounded(growth, steepest)

    def of_prior_log_v(upstream: tf.Tensor) -> tf.Tensor:
        return -0.5 * upstream * bounded(growth + tf.square(z), steepest)

    values = 0.5 * (growth - change + tf.square(z))
    return values, lambda upstream: -of_mean(upstream), of_prior_log_v, of_mean, of_log_v
