"""Clipping of the update instead of the gradient."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from nanguard.backend.updates import second_moment
from nanguard.clipping._clip import Clip, positive
from nanguard.clipping._norms import finite_entries
from nanguard.clipping._sparse import Gradient, rows_of, widened


@keras.saving.register_keras_serializable(package="nanguard")
class StableAdamW(Clip):
    """Divides a weight's learning rate by `max(1, RMS)`, with `RMS = sqrt(mean(g**2 / max(v, epsilon**2)))`.

    `v` is the optimizer's second moment of the gradient, this one in it, with Adam's correction for the start: RMS is 1
    while the gradient is as large as it was, and more where `v` lags behind. The gradient itself is as it was, and so
    are the moments. For Adam, AdamW, Nadam, Lamb and RMSprop. `nanguard.Guard` brings it to the optimizer's update.
    AdamW's weight decay, which Keras makes before the update, keeps the full rate, as in the authors' code; others
    lower it too. That code trains with `beta_2=0.99`, where Keras's Adam has 0.999.

    A NaN in the gradient counts as 0 in the mean and spoils no other number. A ratio whose square overflows is found
    from its root.

    Args:
        epsilon: Least root of `v`. Defaults to the optimizer's own, as in the authors' code, where that is 1e-6.

    Example:

    >>> from nanguard.backend.updates import scaled_updates
    >>> weight, adam = keras.Variable([1.0]), keras.optimizers.Adam(1.0, beta_2=0.5)
    >>> with scaled_updates(adam, StableAdamW()):
    ...     adam.apply([tf.constant([0.1])], [weight])
    ...     adam.apply([tf.constant([1.0])], [weight])
    >>> round(StableAdamW().rate(adam, tf.constant([100.0]), weight).numpy().item(), 3)
    0.756

    References:
        Wortsman, Dettmers, Zettlemoyer, Morcos, Farhadi and Schmidt, *Stable and low-precision training for large-scale
        vision-language models*, NeurIPS 2023, arXiv 2304.13013, Algorithm 2.
    """

    def __init__(self, epsilon: float | None = None) -> None:
        super().__init__()
        self.epsilon = None if epsilon is None else positive("epsilon", epsilon)

    def get_config(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}

    def rate(self, optimizer: Any, gradient: Gradient, variable: Any) -> tf.Tensor:
        """Gives `1 / max(1, RMS)`, a float32 scalar.

        Args:
            optimizer: Keras optimizer with a second moment.
            gradient: Gradient that `optimizer.update_step` is about to apply.
            variable: Its weight.
        """
        before, kept, added = second_moment(optimizer, variable)
        epsilon = float(optimizer.epsilon) if self.epsilon is None else self.epsilon
        v = widened(before)
        g = tf.cast(_dense(gradient, variable), v.dtype)
        kept, added = tf.cast(kept, v.dtype), tf.cast(added, v.dtype)
        # Its square is 0 in float32 for an epsilon below 1e-19, and 0 / 0 is NaN.
        least = tf.maximum(tf.constant(epsilon, v.dtype) ** 2, tf.constant(1.2e-38, v.dtype))
        square = tf.square(g)
        plain = tf.reduce_mean(square / tf.maximum(kept * v + added * square, least))

        def from_roots() -> tf.Tensor:
            x = tf.abs(finite_entries(g))
            is_zero = x == 0
            x = tf.where(is_zero, tf.ones_like(x), x)
            share = tf.maximum(kept * tf.square(tf.sqrt(v) / x) + added, tf.square(tf.sqrt(least) / x))
            return tf.reduce_mean(tf.where(is_zero, tf.zeros_like(x), 1 / share))

        mean = tf.cond(tf.math.is_finite(plain), lambda: plain, from_roots)
        return tf.cast(1 / tf.maximum(tf.sqrt(mean), 1), tf.float32)


def _dense(gradient: Gradient, variable: Any) -> tf.Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows = rows_of(gradient)
    return tf.scatter_nd(
        tf.cast(rows.indices, tf.int64)[:, tf.newaxis], rows.values, tf.cast(tf.shape(variable), tf.int64)
    )
