"""Losses of generative adversarial networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._entry import admit, dismiss, working_dtype
from nanguard.losses._rows import mean_over, row_loss, summable
from nanguard.ops._bounds import bounded, largest_slope
from nanguard.ops._operation import TensorLike, to_float
from nanguard.ops.norm import norm


@row_loss
def wasserstein(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Wasserstein loss of a critic's scores.

    Computes `-t * score` and its mean over the last axis: the critic learns with `t` 1 for real and -1 for generated
    samples, the generator with 1 for its own. NaN stays NaN.

    Args:
        y_true: 1 for what should score high, -1 for what should score low; shape (..., n).
        y_pred: Scores, any number, shape as `y_true`.

    Returns:
        Tensor of shape (...).

    Example:

    >>> wasserstein([[1.0], [-1.0]], [[3.0], [0.5]]).numpy()
    array([-3. ,  0.5], dtype=float32)

    Cures:
        NG202 arithmetic-overflow

    References:
        Arjovsky et al., *Wasserstein GAN*, ICML 2017, eq. 3.
    """

    def elements(t: tf.Tensor, score: tf.Tensor) -> tuple[Any, ...]:
        steepest = largest_slope(score)
        return (
            summable(-t * score),
            lambda upstream: -upstream * bounded(score, steepest),
            lambda upstream: -upstream * bounded(t, steepest),
        )

    return mean_over(-1, elements, y_true, y_pred)


def gradient_penalty(
    critic: Callable[[tf.Tensor], Any],
    real: TensorLike,
    fake: TensorLike,
    target: float = 1.0,
    one_sided: bool = False,
    alpha: TensorLike | None = None,
    seed: int | None = None,
) -> tf.Tensor:
    """Penalty on a critic whose gradient's norm is not `target`, of WGAN-GP, one value for each sample.

    Computes `(norm(gradient of critic at x) - target) ** 2` at points `x = alpha * real + (1 - alpha) * fake`. The norm
    is that of `nanguard.ops`, whose gradient is 0 where the critic is flat; the plain one there makes all weights NaN.
    The penalty is differentiated by the caller's tape, so that of the critic is of second order. It is left out of no
    sample; a NaN stays NaN.

    Args:
        critic: Function of a batch that gives a score for each sample, such as a Keras model.
        real: Real samples, shape (batch, ...).
        fake: Generated samples, same shape.
        target: The norm that costs nothing. Defaults to 1, as in the paper.
        one_sided: Whether a smaller norm costs nothing either. Defaults to False, as in the paper.
        alpha: Share of the real sample in each point, shape (batch,). Defaults to random numbers in [0, 1).
        seed: Seed of those numbers.

    Returns:
        Tensor of shape (batch,), `>= 0`, to be multiplied by a weight (10 in the paper) and added to the critic's loss.

    Example:

    >>> gradient_penalty(lambda x: 0.0 * x, [[1.0, 2.0]], [[0.0, 0.0]]).numpy()  # A flat critic.
    array([1.], dtype=float32)

    Cures:
        NG306 gradient-penalty-norm-at-zero, NG301 sqrt-gradient-at-zero

    References:
        Gulrajani et al., *Improved Training of Wasserstein GANs*, NeurIPS 2017, eq. 3.
    """
    real = to_float(real)
    fake = tf.cast(fake, real.dtype)
    share = tf.random.uniform(tf.shape(real)[:1], dtype=real.dtype, seed=seed) if alpha is None else alpha
    share = tf.reshape(tf.cast(share, real.dtype), [-1] + [1] * (real.shape.rank - 1))
    points = share * real + (1 - share) * fake
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        scores = critic(points)
    slopes = tape.gradient(scores, points, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    slopes = tf.reshape(tf.cast(slopes, working_dtype(slopes.dtype)), [tf.shape(points)[0], -1])
    excess = norm(slopes, axis=-1) - target
    return dismiss(tf.square(admit(tf.nn.relu(excess) if one_sided else excess)), real.dtype)


class Wasserstein(FunctionLoss, function=wasserstein):
    """Wasserstein loss of a critic as a class; see `wasserstein`."""
