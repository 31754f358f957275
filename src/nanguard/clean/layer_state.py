"""What the layer has learnt in numbers, as weights: from a recipe, back to one, and as the steps of a graph."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nanguard.clean import layer_ops
from nanguard.clean.gaussian import Gaussian
from nanguard.clean.layer_columns import Columns
from nanguard.clean.options import Options
from nanguard.clean.recipe import Recipe

_LARGEST = np.finfo(np.float64).max
_GAUSSIAN = ("mean", "scale", "correlation")
_NORMAL = ("mean", "unit", "root", "factor")


class State:
    """The weights of a layer, float64 and not trainable.

    Args:
        layer: The layer whose weights they are.
        size: How many columns of numbers it cleans.
        options: By which options.
    """

    def __init__(self, layer: Any, size: int, options: Options) -> None:
        def weight(name: str, shape: tuple[int, ...], initializer: Any) -> Any:
            return layer.add_weight(
                name=name, shape=shape, initializer=initializer, dtype="float64", trainable=False, autocast=False
            )

        self.size = size
        self._options = options
        # Low above high says that nothing was learnt.
        self._low = weight("low", (size,), "ones")
        self._high = weight("high", (size,), keras.initializers.Constant(-1.0))
        self._fill = None if options.impute is None else weight("fill", (size,), "zeros")
        self._normal: dict[str, Any] | None = None
        if options.impute == "gaussian":
            self._normal = {
                "mean": weight("mean", (size,), "zeros"),
                "scale": weight("scale", (size,), "ones"),
                "correlation": weight("correlation", (size, size), "identity"),
                "unit": weight("unit", (size,), "ones"),
                "root": weight("root", (size, size), "identity"),
                "factor": weight("factor", (size, size), "identity"),
            }

    def forget(self) -> None:
        """Is as if nothing was learnt."""
        self._low.assign(np.ones(self.size))
        self._high.assign(-np.ones(self.size))

    def is_learnt(self) -> bool:
        """Whether something was."""
        return bool(np.all(self._low.numpy() <= self._high.numpy()))

    def assign(self, recipe: Recipe) -> None:
        """Takes on a recipe."""
        # No weight is infinite: whoever searches a model for numbers that are not finite finds none here.
        self._low.assign(np.maximum(recipe.low, -_LARGEST))
        self._high.assign(np.minimum(recipe.high, _LARGEST))
        if self._fill is not None:
            self._fill.assign(recipe.fill)
        if self._normal is not None:
            assert recipe.gaussian is not None
            found = {key: getattr(recipe.gaussian, key) for key in _GAUSSIAN}
            parts = layer_ops.Normal.parts(recipe.gaussian.scale, recipe.gaussian.correlation)
            for key, value in {**found, **parts}.items():
                self._normal[key].assign(value)

    def recipe(self, columns: Columns) -> Recipe:
        """The recipe, bit for bit."""
        low, high, normal = self._low.numpy(), self._high.numpy(), self._normal
        return Recipe(
            names=columns.numbers,
            low=np.where(low <= -_LARGEST, -np.inf, low),
            high=np.where(high >= _LARGEST, np.inf, high),
            fill=np.full(self.size, np.nan) if self._fill is None else self._fill.numpy(),
            has_indicator=np.array(columns.has_indicator, np.bool_),
            sentinels=tuple(self._options.sentinels_of(name) for name in columns.numbers),
            action=self._options.outliers,
            clips_infinite=self._options.infinite == "clip",
            gaussian=None if normal is None else Gaussian(*(normal[key].numpy() for key in _GAUSSIAN)),
            fills_by_gaussian=normal is not None,
        )

    def steps(self, columns: Columns, dtype: str) -> layer_ops.Steps:
        """What is done in a graph, in a dtype."""
        normal = None
        if self._normal is not None:
            normal = layer_ops.Normal(*(tf.convert_to_tensor(self._normal[key]) for key in _NORMAL))
        return layer_ops.Steps(
            low=tf.convert_to_tensor(self._low),
            high=tf.convert_to_tensor(self._high),
            fill=None if self._fill is None else tf.convert_to_tensor(self._fill),
            sentinels=_in_rows([self._options.sentinels_of(name) for name in columns.numbers]),
            action=self._options.outliers,
            clips_infinite=self._options.infinite == "clip",
            normal=normal,
            dtype=tf.as_dtype(dtype),
        )


def _in_rows(sentinels: list[tuple[float, ...]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Shape (numbers, columns): the n-th sentinel of each column, NaN where a column has fewer."""
    rows = np.full((max(map(len, sentinels), default=0), len(sentinels)), np.nan)
    for place, numbers in enumerate(sentinels):
        rows[: len(numbers), place] = numbers
    return rows
