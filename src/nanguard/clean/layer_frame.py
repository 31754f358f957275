"""A recipe applied to arrays, dicts of columns and frames, each of which comes back as what it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.layer_data import batch_of, is_frame, word_of
from nanguard.clean.recipe import Recipe
from nanguard.errors import UsageError

Floats = NDArray[np.float64]


def transform(data: Any, recipe: Recipe, words: Mapping[str, str | None]) -> Any:
    """Cleans rows by a recipe.

    Args:
        data: An array, a tensor, a dict of columns or a frame.
        recipe: What is done with numbers.
        words: What is put in place of missing text, by column.

    Raises:
        UsageError: If the columns are not those that were learnt.
    """
    if isinstance(data, Mapping):
        return _of_columns(data, recipe, words)
    if is_frame(data):
        return _of_frame(data, recipe, words)
    array = np.asarray(data)
    if not array.ndim or array.shape[-1] != len(recipe.names):
        names = ", ".join(map(repr, recipe.names[:8]))
        raise UsageError(f"{len(recipe.names)} columns were learnt ({names}). Received: shape {array.shape}.")
    cleaned = _cleaned(array.reshape(-1, array.shape[-1]), recipe, recipe.names)
    cleaned = cleaned.reshape(*array.shape[:-1], cleaned.shape[-1])
    if type(data).__module__.startswith("tensorflow"):
        import tensorflow as tf

        return tf.constant(cleaned)
    return cleaned


def _cleaned(rows: Any, recipe: Recipe, names: tuple[str, ...]) -> Floats:
    """Rows with indicators after the columns."""
    batch = batch_of(rows, names)
    for name in batch.words:
        raise UsageError(f"Column {name!r} held numbers when it was learnt, and holds text.")
    cleaned = recipe.clean(batch.numbers)
    return np.concatenate([cleaned.rows, cleaned.is_missing[:, recipe.has_indicator]], axis=1)


def _named(rows: Floats, recipe: Recipe) -> dict[str, Floats]:
    return dict(zip((*recipe.names, *recipe.indicators), rows.T, strict=True))


def _of_columns(data: Mapping[str, Any], recipe: Recipe, words: Mapping[str, str | None]) -> dict[str, Any]:
    found = _named(_cleaned(data, recipe, recipe.names), recipe) if recipe.names else {}
    shapes = {name: np.shape(data[name]) for name in recipe.names}
    shape = next(iter(shapes.values()), ())
    result: dict[str, Any] = {}
    for name, values in data.items():
        word = words.get(name)
        if name in recipe.names:
            result[name] = np.ascontiguousarray(found.pop(name)).reshape(shapes[name])
        elif word is not None:
            array = np.asarray(values)
            is_missing = np.array([word_of(value) is None for value in array.ravel().tolist()], np.bool_)
            result[name] = np.where(is_missing.reshape(array.shape), word, array)
        else:
            result[name] = np.asarray(values)
    return result | {name: np.ascontiguousarray(values).reshape(shape) for name, values in found.items()}


def _of_frame(data: Any, recipe: Recipe, words: Mapping[str, str | None]) -> Any:
    import narwhals as nw

    from nanguard.clean import sources

    frame = nw.from_native(data, eager_only=True)
    blocks = list(sources.open(data, columns=list(recipe.names)).blocks())
    cleaned = _cleaned(np.concatenate([block.numbers for block in blocks]), recipe, recipe.names)
    series = [
        nw.new_series(name, np.ascontiguousarray(values), nw.Float64, backend=frame.implementation)
        for name, values in _named(cleaned, recipe).items()
    ]
    filled = [
        nw.when(nw.col(name).is_null() | (nw.col(name) == "")).then(nw.lit(word)).otherwise(nw.col(name)).alias(name)
        for name, word in words.items()
        if word is not None and name in frame.columns
    ]
    return frame.with_columns(*series, *filled).to_native()
