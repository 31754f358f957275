"""Clipping at a percentile of the norms so far."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from nanguard.clipping._clip import Clip, checked, count
from nanguard.clipping._norms import Norm, global_norm, shrunk
from nanguard.clipping._sparse import Gradient


@keras.saving.register_keras_serializable(package="nanguard")
class AutoClip(Clip):
    """Clips the global norm to a percentile of the norms seen so far, that of this step among them.

    All gradients are multiplied by `min(1, P / |g|)`, with the percentile `P` of the norms `|g|` before clipping. With
    the paper's percentile of 10, nine steps of ten are clipped: it sets the length of most steps, and a spike
    has no weight. The percentile is interpolated linearly, as `np.percentile` does, which the authors' code calls.

    The paper keeps all norms of the training, this the last `history`. The norm of a gradient that is not finite is
    never kept, where it would make each later step NaN; nor is a norm of 0, for a percentile of 0 would stop the
    training for ever. PyTorch's 1e-6, added to the norm that is divided by, is left out. A NaN stays NaN and spoils no
    other number.

    Args:
        percentile: From 0 to 100. The paper's 10.
        history: Number of norms that are kept. 1,000 hold the 10th percentile to within 1 point, at 4 kB; as many as
            the authors' later package keeps, which clips each weight alone to its 90th percentile.

    Example:

    >>> clip = AutoClip(percentile=50)
    >>> [clip([tf.constant([norm])])[0].numpy().item() for norm in (1.0, 3.0, float("nan"), 8.0)]
    [1.0, 2.0, nan, 3.0]

    References:
        Seetharaman, Wichern, Pardo and Le Roux, *AutoClip: Adaptive Gradient Clipping for Source Separation Networks*,
        MLSP 2020, arXiv 2007.14469, Algorithm 1. The authors' code: github.com/pseeth/autoclip.
    """

    def __init__(self, percentile: float = 10, history: int = 1000) -> None:
        super().__init__()
        is_number = isinstance(percentile, int | float) and not isinstance(percentile, bool)
        self.percentile = checked("percentile", percentile, "from 0 to 100", is_number and 0 <= percentile <= 100)
        self.history = count("history", history)

    def get_config(self) -> dict[str, Any]:
        return {"percentile": self.percentile, "history": self.history}

    def _build(self, variables: list[Any]) -> None:
        self._norms = self._new_state("norms", tf.zeros([self.history]))
        self._num = self._new_state("num_norms", tf.zeros([], tf.int64))

    def _clip(
        self, grads: list[Gradient], variables: list[Any], half_squares: list[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        norm = global_norm(grads, half_squares)
        kept, counts = counted(norm)
        num = self._num.read_value()
        norms = tf.where((tf.range(self.history, dtype=tf.int64) == num % self.history) & counts, kept, self._norms)
        num += tf.cast(counts, tf.int64)
        self._norms.assign(norms)
        self._num.assign(num)
        limit = self._limit(norms, tf.minimum(num, self.history))
        return shrunk(grads, norm, limit)

    def _limit(self, norms: tf.Tensor, num: tf.Tensor) -> tf.Tensor:
        infinite = tf.constant(float("inf"))
        ordered = tf.sort(tf.where(tf.range(self.history, dtype=tf.int64) < num, norms, infinite))
        # The whole part is found in whole numbers: a rank of 89.99999 in float32 would be that of the wrong pair.
        thousandths = tf.maximum(num - 1, 0) * round(self.percentile * 1000)
        low = thousandths // 100_000
        part = tf.cast(thousandths % 100_000, tf.float32) / 100_000.0
        below = tf.gather(ordered, low)
        above = tf.gather(ordered, tf.minimum(low + 1, tf.maximum(num - 1, 0)))
        return tf.where(num > 0, below + tf.where(num > 0, above - below, 0.0) * part, infinite)


def counted(norm: Norm) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives a norm in float32, and whether it belongs in statistics: if it is of finite numbers, and not 0."""
    plain = tf.minimum(tf.cast(norm.plain(), tf.float32), tf.float32.max)
    return plain, norm.is_whole & (plain > 0)
