"""Clipping by the size of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from nanguard.clipping._clip import Clip, positive
from nanguard.clipping._norms import finite_entries
from nanguard.clipping._sparse import Gradient, Rows, rows_of, values_of, widened, with_values
from nanguard.errors import UsageError
from nanguard.ops._scaling import sum_of_squares

# What Keras calls biases and gains: those of a GRU, of attention and of a normalisation of several axes are no vectors.
_VECTORS = ("bias", "beta", "gamma", "scale")
# The layers inside Keras's attention whose outputs are heads and channels.
_PROJECTIONS = ("query", "key", "value")


@keras.saving.register_keras_serializable(package="nanguard")
class AGC(Clip):
    """Adaptive gradient clipping: bounds each unit's gradient by a fraction of the norm of the unit's weights.

    The gradient of unit i is multiplied by `min(1, clipping * max(|W_i|, epsilon) / |G_i|)`. A unit is what feeds one
    output: the numbers of a dense or convolutional kernel with one last index. A bias or gain is one unit, and so is
    any weight with at most one axis longer than 1, as in the authors' code. That code takes each kernel of three axes
    for one of attention; here the path decides, as it does of what the paper does not speak of:

    - `query`, `key` and `value` in attention have a unit for each head and channel.
    - A depthwise kernel (`depthwise` or `dwconv` in the path) has one for each channel.
    - A transposed one (`transpose` in the path) has one for each index of its last axis but one, the outputs.
    - `embeddings` have one for each row. So has any sparse gradient, with its slices summed.

    A NaN stays NaN; it and the norm of the rest of its unit leave each other alone. An infinite or NaN weight
    leaves its unit's gradient unclipped. Nothing is added to `|G_i|`, which the authors' code reads as 1e-6 at least.

    Args:
        clipping: Largest `|G_i| / |W_i|`. The paper's 0.01 is for batches of 4,096; smaller ones stand more.
        epsilon: Least norm that a unit counts with, so that one of zeros can start to learn. The paper's 1e-3.
        exclude: Parts of the paths of weights that are not clipped. The paper leaves out the last linear layer.

    Example:

    >>> kernel = keras.Variable([[3.0, 0.0], [4.0, 0.0]])
    >>> clip = AGC(0.1, epsilon=0.01)
    >>> clip([tf.constant([[30.0, 0.0006], [40.0, 0.0008]])], [kernel])[0].numpy().round(4)
    array([[0.3   , 0.0006],
           [0.4   , 0.0008]], dtype=float32)

    References:
        Brock, De, Smith and Simonyan, *High-Performance Large-Scale Image Recognition Without Normalization*, ICML
        2021, arXiv 2102.06171, §4.
    """

    def __init__(self, clipping: float = 0.01, epsilon: float = 1e-3, exclude: Sequence[str] = ()) -> None:
        super().__init__()
        self.clipping = positive("clipping", clipping)
        self.epsilon = positive("epsilon", epsilon)
        if isinstance(exclude, str) or not all(isinstance(part, str) and part for part in exclude):
            raise UsageError(f"`exclude` must be a list of parts of weights' paths. Received: exclude={exclude!r}.")
        self.exclude = tuple(exclude)

    def get_config(self) -> dict[str, Any]:
        return {"clipping": self.clipping, "epsilon": self.epsilon, "exclude": list(self.exclude)}

    def _check_weights_are_optional(self) -> None:
        raise UsageError(
            "AGC compares gradients with weights. Received: no variables. Call it as clip(grads, variables)."
        )

    def _clip(
        self, grads: list[Gradient], variables: list[Any], half_squares: list[tf.Tensor]
    ) -> tuple[list[Gradient], tf.Tensor]:
        places = [i for i, variable in enumerate(variables) if not self._is_excluded(variable)]
        if not places:
            return grads, tf.constant(1.0)
        units = [_Units(grads[i], variables[i]) for i in places]
        weights = [tf.reduce_sum(tf.square(unit.weight), unit.axes, keepdims=True) for unit in units]
        squares = 2 * tf.add_n([half_squares[i] for i in places]) + tf.add_n(
            [tf.cast(tf.reduce_sum(weight), tf.float32) for weight in weights]
        )

        def from_squares() -> list[tuple[tf.Tensor, tf.Tensor]]:
            return [
                (self._factors(unit.square(), weight), tf.ones_like(weight))
                for unit, weight in zip(units, weights, strict=True)
            ]

        def from_scaled() -> list[tuple[tf.Tensor, tf.Tensor]]:
            pairs = []
            for unit in units:
                square, scale = sum_of_squares(finite_entries(unit.gradient), unit.axes)
                factors = self._factors(square, *sum_of_squares(unit.weight, unit.axes), scale=scale)
                pairs.append((factors, tf.where(factors == 1, tf.ones_like(scale), scale)))
            return pairs

        is_plain = tf.math.is_finite(squares)
        pairs = tf.cond(is_plain, from_squares, from_scaled)
        smallest = tf.reduce_min(
            tf.stack([tf.reduce_min(tf.cast(factors * scale, tf.float32)) for factors, scale in pairs])
        )

        def as_they_are() -> list[tf.Tensor]:
            return [tf.identity(unit.values) for unit in units]

        def smaller() -> list[tf.Tensor]:
            values: list[tf.Tensor] = tf.cond(
                is_plain,
                lambda: [unit.times(factors) for unit, (factors, _) in zip(units, pairs, strict=True)],
                lambda: [unit.times(1 / factors, scale) for unit, (factors, scale) in zip(units, pairs, strict=True)],
            )
            return values

        values = tf.cond(smallest >= 1, as_they_are, smaller)
        clipped = list(grads)
        for i, value in zip(places, values, strict=True):
            clipped[i] = with_values(grads[i], value)
        return clipped, tf.minimum(smallest, 1.0)

    def _factors(
        self,
        square: tf.Tensor,
        weight_square: tf.Tensor,
        weight_scale: tf.Tensor | float = 1.0,
        scale: tf.Tensor | float = 1.0,
    ) -> tf.Tensor:
        """Gives what to multiply each unit by, after `scale` if it is not 1."""
        norm = tf.sqrt(square)
        limit = self.clipping * tf.maximum(tf.sqrt(weight_square) / weight_scale, self.epsilon)
        is_large = norm > limit * scale
        one = tf.ones_like(norm)
        return tf.where(is_large, limit / tf.where(is_large, norm, one), one)

    def _is_excluded(self, variable: Any) -> bool:
        path = getattr(variable, "path", variable.name)
        return any(part in path for part in self.exclude)


class _Units:
    """A gradient and its weight, seen unit by unit."""

    def __init__(self, grad: Gradient, variable: Any) -> None:
        self.values = values_of(grad)
        weight = tf.convert_to_tensor(variable)
        self.rows: Rows | None = None
        if isinstance(grad, tf.IndexedSlices):
            self.rows = rows_of(grad)
            weight = tf.gather(weight, self.rows.indices)
        self.gradient = widened(self.values) if self.rows is None else self.rows.values
        self.weight = tf.cast(weight, self.gradient.dtype)
        path = getattr(variable, "path", variable.name)
        self.axes = list(range(1, weight.shape.rank)) if self.rows is not None else _axes(path, tuple(weight.shape))

    def square(self) -> tf.Tensor:
        """Gives the sum of squares of each unit's gradient."""
        return tf.reduce_sum(tf.square(self.gradient), self.axes, keepdims=True)

    def times(self, factors: tf.Tensor, scale: tf.Tensor | None = None) -> tf.Tensor:
        """Gives the values times each unit's factor; with a scale, times that and then divided by the factor."""
        x = widened(self.values)
        if self.rows is not None:
            factors = tf.gather(factors, self.rows.positions)
            scale = None if scale is None else tf.gather(scale, self.rows.positions)
        return tf.cast(x * factors if scale is None else x * scale / factors, self.values.dtype)


def _axes(path: str, shape: tuple[int, ...]) -> list[int]:
    """Gives the axes along which the numbers of one unit lie."""
    rank = len(shape)
    *_, layer, name = ("", *path.partition(":")[0].split("/"))
    if name in _VECTORS or sum(size != 1 for size in shape) <= 1:
        return list(range(rank))
    units = {rank - 1}
    if name == "embeddings":
        units = {0}
    elif rank >= 3 and ("depthwise" in path or "dwconv" in path):
        units = {rank - 2, rank - 1}
    elif rank >= 3 and "transpose" in path:
        units = {rank - 2}
    elif rank == 3 and layer in _PROJECTIONS:
        units = {1, 2}
    return [axis for axis in range(rank) if axis not in units]
