"""`Cleaner`: the same numbers wherever it runs, the ways of Keras, and one line for what cannot be cleaned."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from sklearn.impute import MissingIndicator, SimpleImputer

from nanguard.clean.layer import Cleaner, save
from nanguard.clean.options import Options
from nanguard.clean.recipe import Recipe
from nanguard.errors import UsageError

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow says it of the interpreter that comes with it.
    "ignore:.*tf.lite.Interpreter is deprecated:UserWarning",
    # NumPy says it of Keras, whenever that saves a variable.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)

SCALES = np.array([1.0, 1e-3, 1e5, 30.0, 1.0])
OPTIONS: dict[str, dict[str, Any]] = {
    "gaussian": {"indicators": True},
    "gaussian, outliers imputed": {"outliers": "impute", "bounds": "mad", "covariance": "pairwise", "indicators": True},
    "mean": {"impute": "mean", "outliers": None, "sentinels": [-999.0]},
    "median": {"impute": "median", "bounds": "zscore", "infinite": "clip", "indicators": True},
    "mode": {"impute": "mode", "bounds": "quantile", "threshold": 0.01, "sentinels": {"3": [-999.0, -1.0]}},
    "constant": {"impute": "constant", "fill_value": -7.0},
    "none": {"impute": None},
}


def made(num_rows: int, seed: int = 0, share: float = 0.15) -> Any:
    """Gives rows of five columns that hang together, with gaps, outliers, sentinels and infinities."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(num_rows, 2)) @ random.normal(size=(2, 5)) + 0.3 * random.normal(size=(num_rows, 5))
    rows = rows * SCALES + [0.0, 0.0, 3e5, 0.0, 5.0]
    rows[:, 3] = np.rint(rows[:, 3])
    rows[random.random(rows.shape) < share] = np.nan
    rows[random.random(num_rows) < 0.02, 0] = 1e7
    rows[random.random(num_rows) < 0.02, 1] = np.inf
    rows[random.random(num_rows) < 0.02, 3] = -999.0
    return rows.astype(np.float32)


ROWS = made(2000)
GIVEN = made(64, seed=1)
GIVEN[0] = np.nan
GIVEN[1] = [1.0, -np.inf, np.inf, -1.0, np.nan]


@functools.cache
def cleaner_of(name: str, dtype: str = "float32") -> Any:
    """Gives an adapted layer."""
    return Cleaner(dtype=dtype, **OPTIONS[name]).adapt(ROWS)


@functools.cache
def saved(name: str, kind: str) -> Path:
    """Gives the path of a model with the layer in it."""
    path = Path(tempfile.mkdtemp()) / ("model.keras" if kind == "keras" else "model")
    model = keras.Sequential([keras.Input((5,)), cleaner_of(name)])
    if kind == "keras":
        model.save(path)
    else:
        model.export(path, verbose=False)
    return path


def by_lite(name: str) -> Any:
    """Gives what TensorFlow Lite makes of the rows, with its own ops alone."""
    content = tf.lite.TFLiteConverter.from_saved_model(str(saved(name, "tf"))).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, GIVEN.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, GIVEN)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def by_saved_model(name: str) -> Any:
    """Gives what a server makes of them."""
    model = tf.saved_model.load(str(saved(name, "tf")))
    return model.serve(GIVEN)


def by_weights(name: str) -> Any:
    """Gives what a model made anew makes of them, once it has loaded the weights."""
    path = Path(tempfile.mkdtemp()) / "model.weights.h5"
    cleaner = cleaner_of(name)
    keras.Sequential([keras.Input((5,)), cleaner]).save_weights(path)
    fresh = keras.Sequential([keras.Input((5,)), Cleaner.from_config(cleaner.get_config())])
    fresh.load_weights(path)
    return fresh.predict(GIVEN, verbose=0)


def by_columns(name: str) -> Any:
    """Gives what comes of the same rows as named columns."""
    return Cleaner(output="matrix", **OPTIONS[name]).adapt(ROWS)(
        {str(place): GIVEN[:, place : place + 1] for place in range(5)}
    )


def by_data_set(name: str) -> Any:
    """Gives what `Dataset.map` makes of them."""
    data = tf.data.Dataset.from_tensor_slices(GIVEN).batch(10).map(cleaner_of(name))
    return np.concatenate(list(data.as_numpy_iterator()))


WAYS: dict[str, Callable[[str], Any]] = {
    "eager": lambda name: cleaner_of(name)(GIVEN),
    "float64 input": lambda name: cleaner_of(name)(GIVEN.astype(np.float64)),
    "graph": lambda name: tf.function(cleaner_of(name))(GIVEN),
    "XLA": lambda name: tf.function(cleaner_of(name), jit_compile=True)(GIVEN),
    "one row at a time": lambda name: np.stack([cleaner_of(name)(row) for row in GIVEN]),
    "sequences": lambda name: np.reshape(cleaner_of(name)(GIVEN.reshape(8, 8, 5)), (64, -1)),
    "named columns": by_columns,
    "Dataset.map": by_data_set,
    "predict": lambda name: keras.Sequential([keras.Input((5,)), cleaner_of(name)]).predict(GIVEN, verbose=0),
    "mixed_float16": lambda name: cleaner_of(name, "mixed_float16")(GIVEN),
    "mixed_bfloat16": lambda name: cleaner_of(name, "mixed_bfloat16")(GIVEN),
    ".keras": lambda name: keras.models.load_model(saved(name, "keras")).predict(GIVEN, verbose=0),
    ".weights.h5": by_weights,
    "SavedModel": by_saved_model,
    "TensorFlow Lite": by_lite,
    "transform": lambda name: cleaner_of(name).transform(GIVEN),
    "transform after .keras": lambda name: keras.models.load_model(saved(name, "keras")).layers[0].transform(GIVEN),
}


def of_recipe(recipe: Recipe, rows: Any) -> Any:
    """Gives what NumPy makes of them in float64."""
    cleaned = recipe.clean(rows.astype(np.float64))
    return np.concatenate([cleaned.rows, cleaned.is_missing[:, recipe.has_indicator]], axis=1)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_same_everywhere(way: str, name: str) -> None:
    """Every way to run the layer gives what the recipe gives in float64, to float32 accuracy."""
    wanted = of_recipe(cleaner_of(name).recipe, GIVEN)
    found = np.asarray(WAYS[way](name))
    scales = np.concatenate([SCALES, np.ones(wanted.shape[1] - 5)])
    assert found.shape == wanted.shape
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    assert np.nanmax(np.abs(found - wanted) / (scales + 1e-2 * np.abs(wanted))) < 1e-5
    assert np.array_equal(found[:, 5:], wanted[:, 5:])
    if name != "none":
        assert np.all(np.isfinite(found))


# -- beside scikit-learn and Keras


@pytest.mark.parametrize(
    ("impute", "strategy"),
    [("mean", "mean"), ("median", "median"), ("mode", "most_frequent"), ("constant", "constant")],
)
def test_same_as_scikit_learn(impute: str, strategy: str) -> None:
    """Where scikit-learn has the method, the layer gives its numbers, and its indicators."""
    random = np.random.default_rng(4)
    # An odd number of values, for a median that is one of them.
    rows = np.rint(random.normal(size=(999, 4)) * 3) + 0.0
    rows[:99, 1] = np.nan
    rows[900:, 2] = np.nan
    cleaner = Cleaner(impute, outliers=None, indicators=True, fill_value=3.0).adapt(rows)
    wanted = SimpleImputer(strategy=strategy, fill_value=3.0).fit_transform(rows)
    if impute == "median":
        wanted = np.where(np.isnan(rows), np.nanquantile(rows, 0.5, axis=0, method="inverted_cdf"), wanted)
    indicators = MissingIndicator().fit_transform(rows)
    for found in (cleaner(rows).numpy(), cleaner.transform(rows)):
        assert np.allclose(found, np.concatenate([wanted, indicators], axis=1), rtol=1e-6, atol=1e-6)


def test_one_gap_moves_no_other_cell() -> None:
    """One NaN changes its own cell and indicator; of every other cell the bits stay."""
    whole = np.nan_to_num(made(50, seed=2, share=0.0), posinf=0.0)
    holed = whole.copy()
    holed[7, 2] = np.nan
    cleaner = cleaner_of("gaussian")
    is_same = cleaner(whole).numpy() == cleaner(holed).numpy()
    # The cell and its indicator.
    assert np.argwhere(~is_same).tolist() == [[7, 2], [7, 7]]


def test_normalization_beside_it() -> None:
    """Keras's own layer makes a column NaN of one NaN; behind a Cleaner it does not."""
    plain = keras.layers.Normalization()
    plain.adapt(GIVEN[2:])
    assert np.isnan(plain(GIVEN[2:])).all(axis=0).all()
    cleaner = cleaner_of("gaussian")
    behind = keras.layers.Normalization()
    behind.adapt(cleaner.transform(ROWS))
    assert np.all(np.isfinite(behind(cleaner(GIVEN))))


# -- training


class Shift(keras.layers.Layer):  # type: ignore[misc]
    """Adds a number that is learnt to each column."""

    def build(self, input_shape: Any) -> None:
        self.shift = self.add_weight(name="shift", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x: Any) -> Any:
        return x + tf.cast(self.shift, x.dtype)


def scaled(rows: Any) -> Any:
    """Gives rows with their columns about 0 and 1."""
    return ((rows - np.float32([0, 0, 3e5, 0, 5])) / SCALES).astype(np.float32)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "none"])
def test_gradients_are_finite(name: str, policy: str) -> None:
    """Whatever is missing or out of bounds, the gradients of the inputs and of a layer before are finite."""
    cleaner = Cleaner(dtype=policy, **OPTIONS[name]).adapt(scaled(ROWS))
    model = keras.Sequential([keras.Input((5,)), Shift(dtype="float32"), cleaner])
    given = tf.constant(scaled(GIVEN))
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.reduce_sum(tf.square(model(given)))
    of_rows, of_shift = tape.gradient(loss, [given, *model.trainable_weights])
    assert np.all(np.isfinite(of_rows))
    assert np.all(np.isfinite(of_shift))
    assert np.any(of_shift != 0)
    assert np.all(of_rows.numpy()[np.isnan(GIVEN)] == 0)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_training_behind_it_stays_finite(policy: str) -> None:
    """A model learns from rows with gaps, and no weight is lost."""
    keras.utils.set_random_seed(0)
    cleaner = Cleaner(dtype=policy, indicators=True).adapt(ROWS)
    scale = keras.layers.Normalization(dtype="float32")
    scale.adapt(cleaner.transform(ROWS))
    model = keras.Sequential([keras.Input((5,)), cleaner, scale, keras.layers.Dense(1, dtype=policy)])
    model.compile("adam", "mse")
    losses = model.fit(ROWS, cleaner.transform(ROWS)[:, :1], epochs=3, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


@pytest.mark.parametrize("policy", ["float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_values_of_1e5_and_beyond_stay(policy: str, dtype: str) -> None:
    """What comes out is float32 whatever the policy, so that no feature overflows."""
    rows = np.array([[1e5, 3e4], [2e5, 6e4], [3e5, np.nan], [4e5, 1.2e5]])
    cleaner = Cleaner("mean", outliers=None, dtype=policy).adapt(rows)
    given = tf.cast([[6e4 if dtype == "float16" else 2.5e5, np.nan]], dtype)
    found = cleaner(given)
    assert found.dtype == tf.float32
    assert found.numpy()[0, 0] == given.numpy().astype(np.float32)[0, 0]
    assert found.numpy()[0, 1] == pytest.approx(7e4, rel=1e-6)


def test_float64_policy() -> None:
    """Under a policy of float64 the layer gives what the recipe gives, to the last digits but few."""
    cleaner = cleaner_of("gaussian", "float64")
    found = cleaner(GIVEN).numpy()
    assert found.dtype == np.float64
    assert np.allclose(found, of_recipe(cleaner.recipe, GIVEN), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.bool_])
def test_whole_numbers(dtype: Any) -> None:
    """Whole numbers and booleans are numbers; sentinels among them are missing."""
    rows = np.array([[0, 1], [1, 0], [1, 1], [1, 1]], dtype)
    found = Cleaner("mode", outliers=None, sentinels=[0]).adapt(rows)(rows)
    assert found.dtype == tf.float32
    assert np.array_equal(found, np.ones((4, 2)))


def test_large_whole_numbers_are_looked_at_as_they_are() -> None:
    """A 64-bit integer next to a sentinel that float32 holds as the same number is no sentinel."""
    cleaner = Cleaner("constant", outliers=None, sentinels=[2**40]).adapt(np.array([[2.0**40], [1.0]]))
    found = cleaner(np.array([[2**40], [2**40 + 1]])).numpy()
    assert found[:, 0].tolist() == [0.0, 2.0**40]


# -- named columns

COLUMNS: dict[str, Any] = {
    "age": np.array([31.0, np.nan, 25.0, 40.0, 28.0]),
    "visits": np.array([1, 2, 2, 1, 5]),
    "city": np.array(["Oslo", "", "Bern", "Oslo", "Rome"]),
}


def test_named_columns_come_out_named() -> None:
    """A dict gives a dict: numbers cleaned, indicators by name, text as it is or filled."""
    for categories, city in (("pass", b""), ("mode", b"Oslo")):
        cleaner = Cleaner("median", indicators=True, categories=categories).adapt(COLUMNS)
        found = {name: value.numpy().tolist() for name, value in cleaner(COLUMNS).items()}
        assert found == {
            "age": [31.0, 28.0, 25.0, 40.0, 28.0],
            "visits": [1.0, 2.0, 2.0, 1.0, 5.0],
            "age_missing": [0.0, 1.0, 0.0, 0.0, 0.0],
            "city": [b"Oslo", city, b"Bern", b"Oslo", b"Rome"],
        }


def test_matrix_of_named_columns() -> None:
    """`output="matrix"` joins numbers and indicators in the order of `adapt`, not of the dict that comes."""
    cleaner = Cleaner("median", indicators=True, output="matrix").adapt(COLUMNS)
    turned = {name: COLUMNS[name] for name in ("visits", "age")}
    assert cleaner(turned).numpy().tolist()[:2] == [[31.0, 1.0, 0.0], [28.0, 2.0, 1.0]]


def test_named_columns_in_a_functional_model(tmp_path: Path) -> None:
    """A model of named inputs, text among them, is saved, exported and served with a missing cell."""
    cleaner = Cleaner(indicators=True, categories="mode").adapt(COLUMNS)
    inputs = {
        "age": keras.Input((1,), name="age"),
        "visits": keras.Input((1,), name="visits"),
        "city": keras.Input((1,), name="city", dtype="string"),
    }
    cleaned = cleaner(inputs)
    assert {name: (x.shape, x.dtype) for name, x in cleaned.items()} == {
        "age": ((None, 1), "float32"),
        "visits": ((None, 1), "float32"),
        "age_missing": ((None, 1), "float32"),
        "city": ((None, 1), "string"),
    }
    city = cleaned.pop("city")
    looked_up = keras.layers.StringLookup(vocabulary=["Oslo", "Bern"], output_mode="one_hot")(city)
    joined = keras.layers.Concatenate()([*cleaned.values(), looked_up])
    model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    given = {
        "age": tf.constant([[np.nan], [20.0]]),
        "visits": tf.constant([[1.0], [2.0]]),
        "city": tf.constant([[""], ["Bern"]]),
    }
    wanted = model(given).numpy()
    assert np.all(np.isfinite(wanted))
    # Keras compiles what it can by XLA, which has no text.
    assert np.allclose(model.predict(given, verbose=0), wanted)
    model.save(tmp_path / "model.keras")
    assert np.allclose(keras.models.load_model(tmp_path / "model.keras")(given), wanted)
    model.export(tmp_path / "model", verbose=False)
    assert np.allclose(tf.saved_model.load(str(tmp_path / "model")).serve(given), wanted)


def test_text_that_is_not_utf8_comes_back_as_it_was() -> None:
    """A most frequent text of any bytes is filled in as those bytes, after saving too."""
    words = np.array([b"\xff\xfe", b"\xff\xfe", b"a"], object)
    cleaner = Cleaner("mean", categories="mode").adapt({"x": [1.0, 2.0, 3.0], "word": words})
    again = Cleaner.from_config(
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(cleaner.get_config()))
    )
    again.build((None, 1))
    again.set_weights(cleaner.get_weights())
    assert again({"x": [1.0], "word": [""]})["word"].numpy().tolist() == [b"\xff\xfe"]


FRAMES: dict[str, Callable[[Any], Any]] = {"pandas": pd.DataFrame, "pyarrow": pa.table}


@pytest.mark.parametrize("kind", FRAMES)
def test_transform_gives_back_the_kind_of_frame(kind: str) -> None:
    """A frame comes back as one, with the same numbers as a dict."""
    cleaner = Cleaner(indicators=True, categories="mode").adapt(COLUMNS)
    frame = FRAMES[kind](COLUMNS)
    found = cleaner.transform(frame)
    assert type(found) is type(frame)
    wanted = cleaner.transform(COLUMNS)
    for name in wanted:
        values = found[name].to_numpy()
        assert np.array_equal(values, wanted[name]), name
    assert wanted["visits"].dtype == np.float64
    assert wanted["city"].tolist() == ["Oslo", "Oslo", "Bern", "Oslo", "Rome"]


def test_transform_gives_back_tensors() -> None:
    """A tensor comes back as one of float64."""
    found = cleaner_of("gaussian").transform(tf.constant(GIVEN))
    assert tf.is_tensor(found)
    assert found.dtype == tf.float64


def test_transform_refuses_other_columns() -> None:
    """Rows of other columns than those that were learnt give one line."""
    for data, message in (
        (ROWS[:, :4], r"5 columns were learnt .* Received: shape \(2000, 4\)"),
        ({"0": [1.0]}, "has no column '1'. It has: '0'"),
        ({str(place): ["text"] for place in range(5)}, "Column '0' held numbers when it was learnt, and holds text"),
    ):
        with pytest.raises(UsageError, match=message):
            cleaner_of("mean").transform(data)


# -- Keras's ways


def test_symbolic_shapes() -> None:
    """Shapes and dtypes are known before anything runs, also without a known batch or time."""
    cleaner = cleaner_of("gaussian", "mixed_float16")
    for shape in ((None, 5), (3, 5), (None, None, 5)):
        wanted = (*shape[:-1], 5 + sum(cleaner.recipe.has_indicator))
        assert cleaner.compute_output_shape(shape) == wanted
        found = cleaner(keras.KerasTensor(shape))
        assert found.shape == wanted
        assert found.dtype == "float32"


def test_config_makes_the_same_layer() -> None:
    """A config holds all options, and what is known of the columns, as JSON does."""
    for name in OPTIONS:
        cleaner = cleaner_of(name)
        config = keras.saving.serialize_keras_object(cleaner)
        again = keras.saving.deserialize_keras_object(config)
        again.set_weights(cleaner.get_weights())
        assert again.options == cleaner.options
        assert np.allclose(again(GIVEN), cleaner(GIVEN), equal_nan=True)


def test_recipe_comes_back_bit_for_bit() -> None:
    """What was learnt comes back from a saved model as it was, infinite bounds too."""
    cleaner = Cleaner(outliers=None, indicators=True).adapt(ROWS)
    again = Cleaner.from_config(cleaner.get_config())
    again.build((None, 5))
    again.set_weights(cleaner.get_weights())
    assert again.recipe.to_json() == cleaner.recipe.to_json()
    assert np.all(np.isinf(again.recipe.low))
    assert all(np.all(np.isfinite(weight)) for weight in again.get_weights())


def test_layer_of_a_recipe() -> None:
    """A layer of what was learnt elsewhere is that of what it learns itself."""
    for name in OPTIONS:
        cleaner = cleaner_of(name)
        for options in (cleaner.options, None):
            found = Cleaner.of_recipe(cleaner.recipe, options, name="other")
            assert np.array_equal(found(GIVEN), cleaner(GIVEN), equal_nan=True)
    with pytest.raises(ValueError, match="takes rows out"):
        Cleaner.of_recipe(cleaner.recipe, Options(outliers="drop"))


def test_recipe_as_a_file(tmp_path: Path) -> None:
    """A recipe is saved as a model whose layer can be taken into another; what cannot be written leaves nothing."""
    cleaner = cleaner_of("gaussian")
    save(cleaner.recipe, tmp_path / "cleaner.keras")
    loaded = keras.models.load_model(tmp_path / "cleaner.keras")
    assert np.allclose(loaded.predict(GIVEN, verbose=0), cleaner(GIVEN))
    again = keras.Sequential([keras.Input((5,)), loaded.layers[0], keras.layers.Dense(1)])
    assert np.all(np.isfinite(again.predict(GIVEN, verbose=0)))
    with pytest.raises(UsageError, match=r"ends in .keras. Received: .*cleaner.h5"):
        save(cleaner.recipe, tmp_path / "cleaner.h5")
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        save(cleaner.recipe, tmp_path / "none" / "cleaner.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["cleaner.keras"]


def test_weights_of_a_layer_that_was_not_adapted() -> None:
    """Without indicators a fresh layer takes the weights, and with them knows what to do."""
    cleaner = Cleaner().adapt(ROWS)
    fresh = Cleaner()
    fresh.build((None, 5))
    with pytest.raises(ValueError, match="has learnt nothing"):
        fresh(GIVEN)
    fresh.set_weights(cleaner.get_weights())
    assert np.array_equal(fresh(GIVEN), cleaner(GIVEN))
    with pytest.raises(ValueError, match=r"`indicators=True` .* Call `cleaner.adapt\(data\)` first"):
        Cleaner(indicators=True).build((None, 5))


def test_adapting_again_forgets() -> None:
    """What was learnt last counts, and `reset_state` leaves nothing."""
    cleaner = Cleaner("mean").adapt(ROWS)
    cleaner.adapt(np.ones((3, 5)))
    assert np.array_equal(cleaner(np.full((1, 5), np.nan)), np.ones((1, 5)))
    cleaner.reset_state()
    with pytest.raises(ValueError, match="has learnt nothing"):
        cleaner(ROWS)
    with pytest.raises(ValueError, match="was built for 5 columns of numbers, and the data has 2"):
        cleaner.adapt(ROWS[:, :2])


def test_state_is_not_trainable() -> None:
    """No optimizer touches what was learnt."""
    assert cleaner_of("gaussian").trainable_weights == []


@pytest.mark.parametrize("shape", [(1, 3), (5, 20), (50, 1)])
def test_tables_of_odd_shapes(shape: tuple[int, int]) -> None:
    """One row, more columns than rows, and a single column are enough to learn from and to fill by."""
    rows = np.random.default_rng(0).normal(size=shape)
    cleaner = Cleaner().adapt(rows)
    given = np.vstack([np.full(shape[1], np.nan), rows[0]])
    given[1, 0] = np.nan
    found = cleaner(given).numpy()
    assert np.all(np.isfinite(found))
    assert np.allclose(found, cleaner.transform(given), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"outliers": None}, {"outliers": "impute", "bounds": "quantile"}])
def test_constant_and_repeated_columns(options: dict[str, Any]) -> None:
    """A column that does not vary and one that repeats another are filled like any other."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(500, 4))
    rows[:, 1] = 7.0
    rows[:, 3] = rows[:, 2]
    rows[random.random(rows.shape) < 0.2] = np.nan
    cleaner = Cleaner(**options).adapt(rows)
    found = cleaner(rows).numpy()
    assert np.all(np.isfinite(found))
    assert np.all(found[:, 1] == 7.0)
    assert np.max(np.abs(found - cleaner.transform(rows))) < 1e-4


# -- what is refused

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "knn": (lambda: Cleaner("knn"), "`impute='knn'` looks at other rows.*`nanguard clean`, or take one of 'gaussian'"),
    "interpolate": (lambda: Cleaner("interpolate"), "looks at other rows"),
    "drop": (lambda: Cleaner(outliers="drop"), "takes rows out, which a layer cannot"),
    "mahalanobis": (lambda: Cleaner(bounds="mahalanobis"), "judges rows, not cells"),
    "hampel": (lambda: Cleaner(bounds="hampel"), "judges rows, not cells"),
    "output": (lambda: Cleaner(output="frame"), "`output` must be one of 'same', 'matrix'"),
    "categories": (lambda: Cleaner(categories="mean"), "`categories` must be one of 'pass', 'mode'"),
    "before adapt": (lambda: Cleaner()(ROWS), "has learnt nothing. Call `cleaner.adapt"),
    "before adapt, dict": (lambda: Cleaner()(COLUMNS), "has learnt nothing"),
    "transform before adapt": (lambda: Cleaner().transform(ROWS), "has learnt nothing"),
    "width": (lambda: cleaner_of("mean")(ROWS[:, :4]), r"has learnt 5 columns of numbers .* shape \(2000, 4\)"),
    "symbolic width": (lambda: cleaner_of("mean")(keras.KerasTensor((None, 4))), r"Received: shape \(None, 4\)"),
    "text matrix": (
        lambda: cleaner_of("mean")(np.array([["a"] * 5])),
        "The rows must be real numbers. Received: string",
    ),
    "complex": (lambda: cleaner_of("mean")(ROWS + 1j), "real numbers. Received: complex"),
    "one number": (lambda: cleaner_of("mean")(3.0), "Received: a single number"),
    "frame": (lambda: cleaner_of("mean")(pd.DataFrame(ROWS)), "frames go through its `transform`. Received: DataFrame"),
    "lacking column": (
        lambda: named()({"age": COLUMNS["age"], "city": COLUMNS["city"]}),
        "a column 'visits', and it is lacking. It got: 'age', 'city'",
    ),
    "lacking text": (lambda: named()({k: COLUMNS[k] for k in ("age", "visits")}), "a column 'city', and it is lacking"),
    "another column": (
        lambda: named()({**COLUMNS, "zip": COLUMNS["age"]}),
        "has learnt no column 'zip'. It has: 'age'",
    ),
    "text for numbers": (lambda: named()({**COLUMNS, "age": COLUMNS["city"]}), "'age' must be real numbers"),
    "numbers for text": (lambda: named()({**COLUMNS, "city": COLUMNS["age"]}), "'city' held text when .* float64"),
    "unlike shapes": (
        lambda: named()({**COLUMNS, "age": COLUMNS["age"][:, None]}),
        r"must have one shape. Received: 'age' \(5, 1\) and 'visits' \(5,\)",
    ),
    "taken name": (
        lambda: Cleaner(indicators=True).adapt({"a": [1.0, np.nan], "a_missing": [1.0, 2.0]}),
        "The indicator 'a_missing' would have the name of a column",
    ),
    "unknown width": (lambda: Cleaner()(keras.KerasTensor((None, None))), "must be known. Received"),
}


@functools.cache
def named() -> Any:
    """Gives a layer that has learnt named columns."""
    return Cleaner().adapt(COLUMNS)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    """What cannot be done or cleaned is said in one line, with what came and the way out."""
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
