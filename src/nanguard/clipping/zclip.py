"""Clipping of norms that are far from the mean of those before."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from nanguard.clipping._clip import Clip, count, fraction, positive
from nanguard.clipping._norms import global_norm, shrunk
from nanguard.clipping._sparse import Gradient
from nanguard.clipping.autoclip import counted
from nanguard.intervals import float_format

_SMALLEST_NORMAL = float_format("float32").smallest_normal


@keras.saving.register_keras_serializable(package="nanguard")
class ZClip(Clip):
    """Clips a global norm whose z-score is above a threshold; the further out it is, the nearer to the mean.

    With the running mean `m` and deviation `s` of the norms, `z = (|g| - m) / (s + epsilon)`. Where `z >
    z_threshold`, the norm becomes `m + s * z_threshold**2 / z`. Then `m = alpha * m + (1 - alpha) * n` and `s**2 =
    alpha * s**2 + (1 - alpha) * (n - m)**2`, with the norm `n` after clipping. The first `warmup` norms are not
    clipped; their mean and deviation (of all, not of a sample) are the start. A spike among them widens the deviation
    for as long as the averages remember it. Of the options of the authors' code this is the default: the z-score, and
    "adaptive scaling" by the factor 1. Their fixed limit beside it, `max_grad_norm`, is not the paper's, and left out.

    The norm of a gradient that is not finite never enters the averages, where it would switch the clipping off for
    ever; nor does a norm of 0. A norm of 1e30 leaves them finite. A NaN stays NaN and spoils no other number.

    Args:
        z_threshold: Score from which a norm is a spike. The paper's 2.5.
        alpha: Share that the averages keep each step, below 1. The paper's 0.97: they remember some 33 steps.
        warmup: Number of norms before the first clipping. The paper's 25.
        epsilon: Added to the deviation, so that equal norms give a finite score. That of the authors' code.

    Example:

    >>> clip = ZClip(warmup=2)
    >>> [round(clip([tf.constant([norm])])[0].numpy().item(), 3) for norm in (1.0, 3.0, 4.0, 102.0, float("nan"))]
    [1.0, 3.0, 4.0, 2.128, nan]

    References:
        Kumar, Owen, Roy Chowdhury and Güra, *ZClip: Adaptive Spike Mitigation for LLM Pre-Training*, 2025,
        arXiv 2504.02507, §3. The authors' code: github.com/bluorion-com/ZClip.
    """

    def __init__(self, z_threshold: float = 2.5, alpha: float = 0.97, warmup: int = 25, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.z_threshold = positive("z_threshold", z_threshold)
        self.alpha = fraction("alpha", alpha)
        self.warmup = count("warmup", warmup)
        self.epsilon = positive("epsilon", epsilon)

    def get_config(self) -> dict[str, Any]:
        return {
            "z_threshold": self.z_threshold,
            "alpha": self.alpha,
            "warmup": self.warmup,
            "epsilon": self.epsilon,
        }

    def _build(self, variables: list[Any]) -> None:
        self._first = self._new_state("first_norms", tf.zeros([self.warmup]))
        self._num = self._new_state("num_norms", tf.zeros([], tf.int64))
        self._mean = self._new_state("mean", tf.zeros([]))
        # Not the variance: the square of a norm of 1e30 is infinite.
        self._deviation = self._new_state("deviation", tf.zeros([]))

    def _clip(
        self, grads: list[Gradient], variables: list[Any], half_squares: list[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        norm = global_norm(grads, half_squares)
        plain, counts = counted(norm)
        num, mean, deviation = self._num.read_value(), self._mean.read_value(), self._deviation.read_value()
        is_warm = num >= self.warmup
        score = (plain - mean) / (deviation + self.epsilon)
        is_spike = is_warm & (score > self.z_threshold)
        lower = mean + self.z_threshold * deviation * (self.z_threshold / tf.where(is_spike, score, 1.0))
        limit = tf.where(is_spike, lower, float("inf"))

        self._learn(tf.minimum(plain, limit), counts, num, mean, deviation)
        return shrunk(grads, norm, limit)

    def _learn(self, norm: tf.Tensor, counts: tf.Tensor, num: tf.Tensor, mean: tf.Tensor, deviation: tf.Tensor) -> None:
        first = tf.where((tf.range(self.warmup, dtype=tf.int64) == num) & counts, norm, self._first)
        largest = tf.maximum(tf.reduce_max(first), _SMALLEST_NORMAL)
        ratios = first / largest
        start_mean = tf.reduce_mean(ratios)
        start_deviation = tf.sqrt(tf.reduce_mean(tf.square(ratios - start_mean)))

        later_mean = self.alpha * mean + (1 - self.alpha) * norm
        distance = tf.abs(norm - later_mean)
        larger = tf.maximum(tf.maximum(deviation, distance), _SMALLEST_NORMAL)
        later_deviation = larger * tf.sqrt(
            self.alpha * tf.square(deviation / larger) + (1 - self.alpha) * tf.square(distance / larger)
        )

        is_warm = num >= self.warmup
        starts = counts & (num + 1 == self.warmup)
        self._first.assign(first)
        self._num.assign(num + tf.cast(counts, tf.int64))
        self._mean.assign(tf.where(starts, largest * start_mean, tf.where(is_warm & counts, later_mean, mean)))
        self._deviation.assign(
            tf.where(starts, largest * start_deviation, tf.where(is_warm & counts, later_deviation, deviation))
        )
