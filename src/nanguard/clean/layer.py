"""Cleaning as a Keras layer: learnt once, saved inside the model, the same in training and in serving."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nanguard.clean import fitting, layer_data, layer_frame, layer_ops, threads
from nanguard.clean.layer_columns import Columns, check_columns, check_matrix, form, listed, tensor_like
from nanguard.clean.layer_options import arguments, in_model, of_recipe, plain
from nanguard.clean.layer_state import State
from nanguard.clean.options import Options
from nanguard.clean.recipe import Recipe
from nanguard.errors import UsageError

_OUTPUTS = ("same", "matrix")
_CATEGORIES = ("pass", "mode")


@keras.saving.register_keras_serializable(package="nanguard")
class Cleaner(keras.layers.Layer):  # type: ignore[misc]
    """Fills missing numbers and bounds outliers inside the model, by what `adapt` has learnt.

    The steps are those of `Recipe.clean`: numbers that stand for a missing cell, and infinities, become missing; what
    lies beyond its column's bounds is clipped or becomes missing; what is missing is filled from the other cells of its
    row, or by one number for each column; indicators are added. No other row is looked at: a row gives alone what it
    gives in a batch.

    What comes in is a matrix with the columns in its last axis, of any rank, or a dict of columns of equal shape, such
    as `(batch,)` or `(batch, 1)`. What comes out has the same form.

    **Precision.** It computes and gives in float32, also under `mixed_float16` and `mixed_bfloat16` and with inputs of
    half precision: in float16 a raw feature of 1e5 is infinite. The layer that scales the features should then be
    float32 too, such as `Normalization(dtype="float32")`. Under a policy of float64 it gives float64. Inputs of
    float64 and integers of 32 and 64 bits are compared and centred in float64. All state is float64.

    **Gradients** reach the cells that are there, and through a conditional mean the cells of which it was made. They
    are 0 for cells that were missing or clipped, and finite for all.

    **Saving.** What was learnt in numbers is non-trainable weights; the columns' names, which of them have an
    indicator, and the most frequent words are in the config. So a model made anew can `load_weights` into a layer that
    was not adapted, if it takes a matrix and adds no indicators.

    Args:
        impute: How a missing number is filled: "gaussian" (the conditional mean given the row's other cells), "mean",
            "median", "mode", "constant"; None leaves it NaN.
        outliers: What is done about a number beyond its column's bounds: "clip" moves it to the bound, "impute" takes
            it for missing, None does nothing.
        bounds: How bounds are found: "iqr", "mad", "zscore" or "quantile".
        threshold: How far is too far, in the units of `bounds`: interquartile ranges, modified z-scores, standard
            deviations, the share of rows at each end. Defaults to 3, 3.5, 3 and 0.001.
        indicators: Whether a column of 0 and 1 is added for each column that had missing cells in `adapt`: after the
            others in a matrix, as "NAME_missing" in a dict.
        infinite: What an infinity is: "missing", or "clip" for a number beyond every bound.
        sentinels: Numbers that stand for a missing cell, such as -999: for all columns, or by column.
        fill_value: The number for "constant".
        covariance: What "gaussian" is fitted by: "em", on a sample of rows, or "pairwise", by products of all rows.
        columns: The names of a matrix's columns; "0", "1" and so on if left out. Of a dict or frame the columns that
            are cleaned; all others then pass as they are.
        categories: What is done about missing text, which in TensorFlow is empty text: "pass", or "mode" for the
            column's most frequent value.
        output: "same" gives a dict for a dict; "matrix" joins its columns of numbers, in the order in which `adapt` saw
            them, and then the indicators, and leaves out the columns without numbers.
        **kwargs: What every Keras layer takes: `name`, `dtype`, `trainable`.

    Example:

    >>> rows = np.array([[1.0, 2.0], [2.0, 4.1], [3.0, 5.9], [4.0, 8.0], [5.0, np.nan]])
    >>> cleaner = Cleaner(indicators=True).adapt(rows)
    >>> cleaner(np.array([[3.0, 6.0], [2.0, np.nan]])).numpy().round()
    array([[3., 6., 0.],
           [2., 4., 1.]], dtype=float32)
    """

    def __init__(
        self,
        impute: str | None = "gaussian",
        *,
        outliers: str | None = "clip",
        bounds: str = "iqr",
        threshold: float | None = None,
        indicators: bool = False,
        infinite: str = "missing",
        sentinels: Sequence[float] | Mapping[str, Sequence[float]] = (),
        fill_value: float = 0.0,
        covariance: str = "em",
        columns: Sequence[str] | None = None,
        categories: str = "pass",
        output: str = "same",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.options = in_model(
            impute=impute,
            outliers=outliers,
            bounds=bounds,
            threshold=threshold,
            indicators=indicators,
            infinite=infinite,
            sentinels=plain(sentinels),
            fill_value=fill_value,
            covariance=covariance,
        )
        for name, value, known in (("categories", categories, _CATEGORIES), ("output", output, _OUTPUTS)):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}. Received: {name}={value!r}.")
        self.columns = None if columns is None else tuple(columns)
        self.categories = categories
        self.output_form = output
        self._learnt: Columns | None = None
        self._is_adapted = False

    # -- learning

    def adapt(self, data: Any, *, steps: int | None = None) -> Cleaner:
        """Learns from data in one pass. What was learnt before is forgotten.

        Args:
            data: An array or tensor with the columns in its last axis; a dict of columns; a frame (pandas, polars,
                pyarrow); the path of CSV, Parquet, NPZ or TFRecord files; or batches of arrays or dicts: a
                `tf.data.Dataset`, batched or not, a `PyDataset` or any iterable. Of tuples, such as (features, labels),
                the first part is taken.
            steps: How many batches to take of a data set; all if left out.

        Returns:
            The layer.

        Raises:
            UsageError: If there is no row or no column of numbers, or a column has nothing to fill its gaps from.
        """
        with threads.one():
            found = layer_data.learn(data, self.options, columns=self.columns, steps=steps)
            if not found.numbers.names:
                raise UsageError(f"There is no column of numbers to clean. There are: {listed(found.schema.names)}.")
            recipe = fitting.fit(found.numbers, self.options)
        words = {name: layer_data.mode_of(categories) for name, categories in found.categories.items()}
        others = tuple(name for name in found.schema.names if name not in recipe.names and name not in words)
        return self._learn(recipe, words, others)

    @classmethod
    def of_recipe(cls, recipe: Recipe, options: Options | None = None, **kwargs: Any) -> Cleaner:
        """Makes a layer that does what was learnt elsewhere, such as from files.

        Args:
            recipe: What was learnt.
            options: By which options. Those of the recipe are found out if left out; a layer takes out no row, and
                fills by one number for each column what was filled from other rows.
            **kwargs: What `Cleaner` takes beside options.

        Example:

        >>> recipe = Cleaner("mean").adapt([[1.0, 2.0], [3.0, 6.0]]).recipe
        >>> Cleaner.of_recipe(recipe)([[np.nan, 5.0]]).numpy()
        array([[2., 5.]], dtype=float32)
        """
        given = arguments(of_recipe(recipe) if options is None else options)
        return cls(**given, **kwargs)._learn(recipe, {}, ())

    def _learn(self, recipe: Recipe, words: dict[str, str | None], others: tuple[str, ...]) -> Cleaner:
        if self.built and len(recipe.names) != self._state.size:
            raise ValueError(
                f"The layer was built for {self._state.size} columns of numbers, and the data has "
                f"{len(recipe.names)}. Make a new Cleaner for it."
            )
        self._take(Columns(recipe.names, tuple(recipe.has_indicator.tolist()), words, others))
        if not self.built:
            self.build((None, len(recipe.names)))
        self._state.assign(recipe)
        self._is_adapted = True
        return self

    def reset_state(self) -> None:
        """Forgets what was learnt."""
        self._learnt = None
        self._is_adapted = False
        if self.built:
            self._state.forget()

    @property
    def recipe(self) -> Recipe:
        """What was learnt, as frames and files are cleaned by it."""
        self._check_adapted()
        return self._state.recipe(self._columns)

    def transform(self, data: Any) -> Any:
        """Cleans rows outside of a model, in float64.

        Args:
            data: An array, a tensor, a dict of columns or a frame (pandas, polars, pyarrow), with the columns that
                `adapt` saw.

        Returns:
            The same kind, with the numbers cleaned in float64 and the indicators added.

        Example:

        >>> cleaner = Cleaner("median").adapt({"age": [31.0, 40.0, 25.0], "name": ["Ann", "", "Bea"]})
        >>> cleaner.transform({"age": [np.nan, 30.0], "name": ["Cem", "Dan"]})
        {'age': array([31., 30.]), 'name': array(['Cem', 'Dan'], dtype='<U3')}
        """
        recipe = self.recipe
        words = self._columns.words if self.categories == "mode" else {}
        return layer_frame.transform(data, recipe, words)

    # -- state

    @property
    def _columns(self) -> Columns:
        assert self._learnt is not None, "the layer is built"
        return self._learnt

    def _take(self, columns: Columns) -> None:
        self._learnt = columns
        # XLA has no text.
        self.supports_jit = not columns.words

    def build(self, input_shape: Any) -> None:
        """Makes the weights, which `adapt` or a saved file then fills."""
        if self._learnt is None:
            self._take(self._unadapted(input_shape))
        self._state = State(self, len(self._columns.numbers), self.options)
        self.built = True

    def _unadapted(self, input_shape: Any) -> Columns:
        """The columns of a layer whose weights are still to come."""
        if self.options.indicators or isinstance(input_shape, Mapping):
            what = "With `indicators=True`" if self.options.indicators else "Of a dict"
            raise ValueError(
                f"{what} the columns that come out are known from the data. Call `cleaner.adapt(data)` first."
            )
        if input_shape[-1] is None:
            raise ValueError(f"The last axis holds the columns, and must be known. Received: {tuple(input_shape)}.")
        names = self.columns or tuple(map(str, range(input_shape[-1])))
        return Columns(names, (False,) * len(names))

    def _check_adapted(self) -> None:
        if not self._is_adapted and self.built:
            with tf.init_scope():
                self._is_adapted = self._state.is_learnt()
        if not self._is_adapted:
            raise ValueError("The Cleaner has learnt nothing. Call `cleaner.adapt(data)` first, or load its weights.")

    # -- the layer

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Checks what came before Keras does, whose account of a call is long."""
        if isinstance(inputs, Mapping):
            inputs = {name: tensor_like(x) for name, x in inputs.items()}
            if self._learnt is not None:
                check_columns(
                    inputs,
                    self._learnt,
                    may_have_others=self.columns is not None,
                    needs_all=self.output_form == "same",
                )
        else:
            inputs = tensor_like(inputs)
            check_matrix(inputs, self._learnt)
        if not any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(inputs)):
            self._check_adapted()
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Any) -> Any:
        """Cleans rows."""
        columns = self._columns
        if not isinstance(inputs, dict):
            rows, is_missing = layer_ops.clean(tf.convert_to_tensor(inputs), self._state.steps(columns, self._float))
            return tf.concat([rows, *self._indicators(rows, is_missing)], axis=-1)
        _, has_axis = form(inputs, columns.numbers)
        parts = [tf.convert_to_tensor(inputs[name]) for name in columns.numbers]
        dtype = layer_ops.widest([part.dtype for part in parts])
        stacked = (tf.concat if has_axis else tf.stack)([tf.cast(part, dtype) for part in parts], axis=-1)
        rows, is_missing = layer_ops.clean(stacked, self._state.steps(columns, self._float))
        joined = tf.concat([rows, *self._indicators(rows, is_missing)], axis=-1)
        if self.output_form == "matrix":
            return joined
        apart = tf.split(joined, columns.width, axis=-1) if has_axis else tf.unstack(joined, columns.width, axis=-1)
        numbers = dict(zip((*columns.numbers, *columns.indicators), apart, strict=True))
        passed = {name: self._word(name, value) for name, value in inputs.items() if name not in numbers}
        return numbers | passed

    def _indicators(self, rows: tf.Tensor, is_missing: tf.Tensor) -> list[tf.Tensor]:
        places = np.flatnonzero(self._columns.has_indicator)
        return [tf.cast(tf.gather(is_missing, places, axis=-1), rows.dtype)] if len(places) else []

    def _word(self, name: str, value: Any) -> Any:
        word = self._columns.words.get(name)
        if word is None or self.categories == "pass":
            return value
        return tf.where(tf.equal(value, ""), tf.constant(layer_data.written(word)), value)

    @property
    def _float(self) -> str:
        return "float64" if self.compute_dtype == "float64" else "float32"

    # -- what Keras asks

    def compute_output_spec(self, inputs: Any) -> Any:
        """Shapes and dtypes of what comes out."""
        columns = self._columns
        if not isinstance(inputs, dict):
            return keras.KerasTensor((*inputs.shape[:-1], columns.width), self._float)
        shape, has_axis = form(inputs, columns.numbers)
        if self.output_form == "matrix":
            return keras.KerasTensor((*(shape[:-1] if has_axis else shape), columns.width), self._float)
        names = (*columns.numbers, *columns.indicators)
        passed = {name: keras.KerasTensor(x.shape, x.dtype) for name, x in inputs.items() if name not in names}
        return {name: keras.KerasTensor(shape, self._float) for name in names} | passed

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shapes of what comes out."""
        if self._learnt is None:
            self._take(self._unadapted(input_shape))
        if isinstance(input_shape, Mapping):
            inputs: Any = {name: keras.KerasTensor(shape, self._float) for name, shape in input_shape.items()}
        else:
            inputs = keras.KerasTensor(input_shape, self._float)
        return keras.tree.map_structure(lambda x: x.shape, self.compute_output_spec(inputs))

    def get_config(self) -> dict[str, Any]:
        """What makes the layer anew, its weights aside."""
        return {
            **super().get_config(),
            **arguments(self.options),
            "columns": None if self.columns is None else list(self.columns),
            "categories": self.categories,
            "output": self.output_form,
            "learnt": None if self._learnt is None else dataclasses.asdict(self._learnt),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Cleaner:
        """Makes the layer of a config."""
        config = dict(config)
        learnt = config.pop("learnt", None)
        made = cls(**config)
        if learnt is not None:
            made._take(Columns.of_config(learnt))
        return made

    def get_build_config(self) -> dict[str, Any] | None:
        """What makes the weights anew."""
        return {"input_shape": [None, len(self._columns.numbers)]} if self.built and self._learnt is not None else None


def save(recipe: Recipe, path: str | os.PathLike[str]) -> None:
    """Writes a recipe as a Keras model of one layer, for rows as a matrix or to be taken into other models.

    Args:
        recipe: What was learnt.
        path: A file that ends in `.keras`. It is written whole or not at all, over one that exists.

    Raises:
        UsageError: If it does not end so, or cannot be written.
    """
    path = os.fspath(path)
    if not path.endswith(".keras"):
        raise UsageError(f"A model's file ends in .keras. Received: {path}.")
    model = keras.Sequential([keras.Input((len(recipe.names),)), Cleaner.of_recipe(recipe)])
    try:
        with tempfile.TemporaryDirectory(prefix=".nanguard-", dir=os.path.dirname(path) or ".") as folder:
            written = os.path.join(folder, "model.keras")
            model.save(written)
            with open(written, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(written, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
