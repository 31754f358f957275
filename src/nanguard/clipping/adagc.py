"""Clipping of each weight's gradient by the norms that it had."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from nanguard.clipping._clip import Clip, count, fraction, positive
from nanguard.clipping._norms import Norm, shrunk_each, variable_norms
from nanguard.clipping._sparse import Gradient
from nanguard.errors import UsageError


@keras.saving.register_keras_serializable(package="nanguard")
class AdaGC(Clip):
    """Clips the gradient of each weight to `relative` times the running average of its own clipped norms.

    In the first `warmup` steps all gradients together are clipped to the global norm `absolute`, and the average of
    each weight is the least norm that it had after that. Then a gradient is multiplied by `min(1, relative * average
    / |g|)`, and `average = beta * average + (1 - beta) * |g|` with the norm after clipping.

    A step with a gradient that is not finite changes no average. Nor does a norm of 0, which the paper does not
    speak of: the average of a weight behind a branch that starts at zero would be 0, and the weight would never move. A
    weight whose gradient was always 0 is clipped to `absolute` the first time that it is not; the authors' code lets
    that norm through and begins the average with it. Nor is their 1e-6 added to the norm. A NaN stays NaN and spoils
    no other number.

    Args:
        absolute: Global norm in the warm-up. The paper's 1.0.
        relative: Largest norm as a multiple of the average. 1.04, as in the authors' code.
        beta: Share that an average keeps each step, below 1. 0.99, as in the authors' code.
        warmup: Number of steps with the global norm. 100, as in the authors' code.

    Example:

    >>> kernel, bias = keras.Variable([1.0, 1.0]), keras.Variable([1.0])
    >>> clip = AdaGC(absolute=10.0, warmup=1)
    >>> clip([tf.constant([0.6, 0.8]), tf.constant([0.1])], [kernel, bias])[0].numpy()
    array([0.6, 0.8], dtype=float32)
    >>> clip([tf.constant([60.0, 80.0]), tf.constant([0.1])], [kernel, bias])[0].numpy()
    array([0.624, 0.832], dtype=float32)

    References:
        Wang, Li, Chen et al., *AdaGC: Enhancing LLM Pretraining Stability via Adaptive Gradient Clipping*, 2025, ICML
        2026, arXiv 2502.11034, Algorithm 1. The authors' code: github.com/lishuai-97/AdaGC.
    """

    def __init__(self, absolute: float = 1.0, relative: float = 1.04, beta: float = 0.99, warmup: int = 100) -> None:
        super().__init__()
        self.absolute = positive("absolute", absolute)
        self.relative = positive("relative", relative)
        self.beta = fraction("beta", beta)
        self.warmup = count("warmup", warmup)
        self._places: dict[int, int] = {}

    def get_config(self) -> dict[str, Any]:
        return {"absolute": self.absolute, "relative": self.relative, "beta": self.beta, "warmup": self.warmup}

    def _check_weights_are_optional(self) -> None:
        raise UsageError(
            "AdaGC keeps an average for each weight. Received: no variables. Call it as clip(grads, variables)."
        )

    def _build(self, variables: list[Any]) -> None:
        # Held, so that no other weight can come to have the id of one that is gone.
        self._weights = variables
        self._places = {id(variable): place for place, variable in enumerate(variables)}
        self._averages = self._new_state("averages", tf.zeros([len(variables)]))
        self._num = self._new_state("num_steps", tf.zeros([], tf.int64))

    def _clip(
        self, grads: list[Gradient], variables: list[Any], half_squares: list[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        places = tf.constant([self._place(variable) for variable in variables])
        norms = variable_norms(grads, half_squares)
        plain = tf.minimum(tf.cast(norms.plain(), tf.float32), tf.float32.max)
        num, all_averages = self._num.read_value(), self._averages.read_value()
        averages = tf.gather(all_averages, places)

        is_cold = num < self.warmup
        later = tf.where(averages > 0, self.relative * averages, self.absolute)
        limits = tf.where(is_cold, self._cold_limits(plain), later)

        norm = tf.minimum(plain, limits)
        least = tf.where(averages > 0, tf.minimum(averages, norm), norm)
        average = tf.where(averages > 0, self.beta * averages + (1 - self.beta) * norm, norm)
        is_whole = tf.reduce_all(norms.is_whole)
        counts = is_whole & (norm > 0)
        averages = tf.where(counts, tf.where(is_cold, least, average), averages)
        self._averages.assign(tf.tensor_scatter_nd_update(all_averages, places[:, tf.newaxis], averages))
        self._num.assign(num + tf.cast(is_whole, tf.int64))
        return shrunk_each(grads, Norm(*norms), tf.cast(limits, norms.value.dtype))

    def _cold_limits(self, norms: tf.Tensor) -> tf.Tensor:
        """Gives each norm's share of the global norm `absolute`, or infinity if that holds already."""
        largest = tf.reduce_max(norms)
        ratios = tf.math.divide_no_nan(norms, largest)
        ratio = tf.sqrt(tf.reduce_sum(tf.square(ratios)))
        is_small = largest * ratio <= self.absolute
        return tf.where(is_small, float("inf"), ratios * (self.absolute / tf.maximum(ratio, 1.0)))

    def _place(self, variable: Any) -> int:
        if id(variable) not in self._places:
            name = getattr(variable, "path", variable.name)
            raise UsageError(
                f"AdaGC keeps an average for each weight that it was built with. Received: {name}, which is another. "
                "Make one AdaGC for each optimizer, and build it with all of its weights."
            )
        return self._places[id(variable)]
