"""The guard of a loss: what it leaves out, and that it touches nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import NonFiniteError
from nanguard.losses.guarded import Guarded

NAN = float("nan")
MODES = ("eager", "graph", "xla")
REDUCTIONS = ["sum_over_batch_size", "sum", "none"]
KERAS_VERSION = tuple(int(part) for part in keras.__version__.split(".")[:2])
if KERAS_VERSION >= (3, 7):  # older ones know no other
    REDUCTIONS += ["mean", "mean_with_sample_weight"]

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.normal(size=(6, 3)).astype("float32")
PREDICTIONS = RANDOM.normal(size=(6, 3)).astype("float32")
WEIGHTS = np.array([1, 2, 0.5, 3, 1, 0.25], "float32")
BAD = (1, 4)
GOOD = [0, 2, 3, 5]


def distance(y_true: Any, y_pred: Any) -> tf.Tensor:
    """A loss that is finite, and whose gradient is not, where label and prediction are the same."""
    return tf.norm(y_true - y_pred, axis=-1)


def mean_distance(y_true: Any, y_pred: Any) -> tf.Tensor:
    """The same, as one number for the batch."""
    return tf.reduce_mean(distance(y_true, y_pred))


def log_likelihood(y_true: Any, y_pred: Any) -> tf.Tensor:
    return -tf.math.log(y_pred[:, 0])


def trapped(y_true: Any, y_pred: Any) -> tf.Tensor:
    """The where trap: the value is guarded, the gradient is not."""
    return tf.reduce_mean(tf.where(y_pred > 0, tf.math.log(y_pred), 0.0), -1)


def over_the_batch(y_true: Any, y_pred: Any) -> tf.Tensor:
    """A loss in which one sample that is not finite makes the gradient of every other so."""
    error = tf.reduce_mean(tf.square(y_true - y_pred), -1)
    return tf.reduce_mean(error) * (1.0 + tf.math.reduce_variance(tf.exp(y_pred)))


def value_and_gradient(
    loss: Any, y_true: Any, y_pred: Any, weights: Any = None, mode: str = "eager"
) -> tuple[Any, Any]:
    """What the loss gives, and its gradient with respect to the predictions."""

    def compute(y_true: tf.Tensor, y_pred: tf.Tensor, weights: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred, weights)
        return value, tape.gradient(value, y_pred)

    arguments = [tf.convert_to_tensor(x) for x in (y_true, y_pred, weights) if x is not None]
    if mode == "graph":  # of a batch whose size is not known
        signature = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in arguments]
        compute = tf.function(compute, input_signature=signature)
    elif mode == "xla":
        compute = tf.function(compute, jit_compile=True)
    value, gradient = compute(*arguments)
    return value.numpy(), gradient.numpy()


def broken(kind: str) -> tuple[Any, Any, Any, Any]:
    """A loss, and a batch whose samples `BAD` break it in one way."""
    labels, predictions, loss = LABELS.copy(), PREDICTIONS.copy(), "mse"
    if kind == "label":
        labels[1, 2], labels[4] = NAN, np.inf
    elif kind == "prediction":
        predictions[1, 0], predictions[4, 1] = NAN, np.inf
    elif kind == "value":
        loss, predictions = log_likelihood, np.abs(predictions)
        predictions[[1, 4], 0] = 0
    elif kind == "gradient":
        loss, predictions[[1, 4]] = distance, labels[[1, 4]]
    elif kind == "trap":
        loss, predictions = trapped, np.abs(predictions)
        predictions[[1, 4], 1] = 0
    return loss, labels, predictions, WEIGHTS


KINDS = ("label", "prediction", "value", "gradient", "trap")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_ignored_samples_leave_the_batch(kind: str, mode: str):
    """Value and gradient are those of the batch without the affected samples: the same bits, nearly so under XLA."""
    given, labels, predictions, weights = broken(kind)
    guarded = Guarded(given)
    value, gradient = value_and_gradient(guarded, labels, predictions, weights, mode)
    plain, plain_gradient = value_and_gradient(
        guarded._loss, labels[GOOD], predictions[GOOD], weights[GOOD], "xla" if mode == "xla" else "eager"
    )
    np.testing.assert_array_max_ulp(value, plain, maxulp=2 if mode == "xla" else 0)
    np.testing.assert_array_max_ulp(gradient[GOOD], plain_gradient, maxulp=2 if mode == "xla" else 0)
    assert not gradient[list(BAD)].any()
    assert float(guarded.ignored.result()) == 2


@pytest.mark.one_in(2)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("is_weighted", "mode"), [(False, "eager"), (True, "eager"), (False, "graph"), (True, "xla")])
def test_denominators_are_those_of_the_smaller_batch(reduction: str, is_weighted: bool, mode: str):
    """Each reduction divides by what is left, for weighted and masked steps too."""
    labels, predictions = RANDOM.normal(size=(2, 4, 5, 2)).astype("float32")
    mask = RANDOM.random((4, 5)) > 0.3
    labels[1, 2, 0] = NAN
    weights = np.array([[1.0], [2.0], [3.0], [0.5]], "float32") if is_weighted else None
    keep = [0, 2, 3]

    def masked(loss: Any, mask: Any) -> Callable[..., tf.Tensor]:
        def call(y_true: Any, y_pred: Any, weights: Any) -> tf.Tensor:
            y_pred = y_pred * 1.0
            y_pred._keras_mask = tf.convert_to_tensor(mask)
            return loss(y_true, y_pred, weights)

        return call

    loss = keras.losses.MeanSquaredError(reduction=reduction)
    value, gradient = value_and_gradient(masked(Guarded(loss), mask), labels, predictions, weights, mode)
    plain, plain_gradient = value_and_gradient(
        masked(loss, mask[keep]), labels[keep], predictions[keep], None if weights is None else weights[keep], mode
    )
    # A graph of another shape may be optimised to another order of the same products.
    maxulp = {"eager": 0, "graph": 1, "xla": 2}[mode]
    np.testing.assert_array_max_ulp(value[keep] if value.ndim else value, plain, maxulp=maxulp)
    np.testing.assert_array_max_ulp(gradient[keep], plain_gradient, maxulp=maxulp)
    assert not gradient[1].any()
    if value.ndim:
        assert not value[1].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("given", "on_nonfinite"),
    [
        ("mse", "ignore"),
        ("mse", "replace"),
        pytest.param(distance, "raise", marks=pytest.mark.long),
        pytest.param(over_the_batch, "ignore", marks=pytest.mark.long),
    ],
)
def test_a_finite_batch_keeps_its_bits(given: Any, on_nonfinite: Any, mode: str):
    """On a batch that is finite the guard changes no bit of value and gradient."""
    guarded = Guarded(given, on_nonfinite)
    arguments = (LABELS, PREDICTIONS, WEIGHTS, mode)
    for ours, plain in zip(
        value_and_gradient(guarded, *arguments), value_and_gradient(guarded._loss, *arguments), strict=True
    ):
        # XLA may fuse the two otherwise.
        np.testing.assert_array_max_ulp(ours, plain, maxulp=2 if mode == "xla" else 0)
    assert float(guarded.ignored.result()) == 0


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_samples_of_one_number_for_the_batch_leave_it(mode: str):
    """A loss that gives one number is that of the batch without the affected samples, bit for bit."""
    _, labels, predictions, _ = broken("gradient")
    value, gradient = value_and_gradient(Guarded(mean_distance), labels, predictions, mode=mode)
    plain, plain_gradient = value_and_gradient(mean_distance_of, labels[GOOD], predictions[GOOD])
    assert value == plain
    np.testing.assert_array_equal(gradient[GOOD], plain_gradient)


def mean_distance_of(y_true: Any, y_pred: Any, weights: Any) -> tf.Tensor:
    return mean_distance(y_true, y_pred)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("rows", [(1,), (0, 5)])
def test_samples_of_a_loss_that_mixes_them_are_found(rows: tuple[int, ...], mode: str):
    """Where the gradient of every sample is NaN, those to blame are found by leaving samples out."""
    predictions = PREDICTIONS.copy()
    predictions[list(rows)] = 60  # The variance of its exponential overflows.
    good = [row for row in range(6) if row not in rows]
    plain, plain_gradient = value_and_gradient(lambda y, p, w: over_the_batch(y, p), LABELS, predictions)
    assert not np.isfinite(plain_gradient).any()
    guarded = Guarded(over_the_batch)
    value, gradient = value_and_gradient(guarded, LABELS, predictions, mode=mode)
    plain, plain_gradient = value_and_gradient(lambda y, p, w: over_the_batch(y, p), LABELS[good], predictions[good])
    # A traced function may compute these in another order.
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    np.testing.assert_allclose(gradient[good], plain_gradient, rtol=1e-5)
    assert not gradient[list(rows)].any()
    assert float(guarded.ignored.result()) == len(rows)


def test_one_number_for_the_batch_under_xla():
    """Under XLA such a loss sees the first good sample in the place of the others, without its gradient."""
    _, labels, predictions, _ = broken("gradient")
    value, gradient = value_and_gradient(Guarded(mean_distance), labels, predictions, mode="xla")
    stand_ins = [0, 0, 2, 3, 0, 5]
    plain, plain_gradient = value_and_gradient(mean_distance_of, labels[stand_ins], predictions[stand_ins])
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    np.testing.assert_allclose(gradient[GOOD], plain_gradient[GOOD], rtol=1e-6)
    assert not gradient[list(BAD)].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given", ["mse", pytest.param(mean_distance, marks=pytest.mark.long)])
def test_nothing_left_gives_zero(given: Any, mode: str):
    """With no sample left the loss is 0, and so are its gradients, which an optimizer still finds."""
    for on_nonfinite, expected in (("ignore", 0.0), ("replace", 2.5)):
        guarded = Guarded(given, on_nonfinite, replacement=2.5)
        value, gradient = value_and_gradient(guarded, np.full_like(LABELS, NAN), PREDICTIONS, mode=mode)
        assert value == expected
        assert not gradient.any()
        assert float(guarded.ignored.result()) == 6


@pytest.mark.one_in(2)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_replaced_samples_stay_in_the_denominator(kind: str, mode: str):
    """The value of a replaced sample is the constant times its weight, its gradient is 0, and the others' stays."""
    given, labels, predictions, weights = broken(kind)
    value, gradient = value_and_gradient(Guarded(given, "replace", replacement=2.0), labels, predictions, weights, mode)
    values = Guarded(given, reduction="none")(labels[GOOD], predictions[GOOD], weights[GOOD])
    np.testing.assert_allclose(value, (np.sum(values) + 2.0 * weights[list(BAD)].sum()) / 6, rtol=1e-6)
    _, smaller = value_and_gradient(Guarded(given), labels[GOOD], predictions[GOOD], weights[GOOD])
    np.testing.assert_allclose(gradient[GOOD], smaller * 4 / 6, rtol=1e-6)
    assert not gradient[list(BAD)].any()


def test_replaced_samples_of_one_number_for_the_batch():
    """One number for the batch is taken for the mean of its samples, or under "sum" for their sum."""
    _, labels, predictions, _ = broken("gradient")
    mean = float(mean_distance(labels[GOOD], predictions[GOOD]))
    assert float(Guarded(mean_distance, "replace", replacement=3.0)(labels, predictions)) == pytest.approx(
        (4 * mean + 2 * 3.0) / 6
    )
    summed = Guarded(mean_distance, "replace", replacement=3.0, reduction="sum")
    assert float(summed(labels, predictions)) == pytest.approx(mean + 2 * 3.0)


def test_a_weight_that_is_not_finite_affects_its_sample():
    """A sample with a NaN as its weight is left out, or its replacement weighs nothing."""
    weights = np.array([1, NAN, 0.5, 3, np.inf, 0.25], "float32")
    plain, _ = value_and_gradient(keras.losses.MeanSquaredError(), LABELS[GOOD], PREDICTIONS[GOOD], weights[GOOD])
    assert value_and_gradient(Guarded("mse"), LABELS, PREDICTIONS, weights)[0] == plain
    replaced, _ = value_and_gradient(Guarded("mse", "replace", replacement=9), LABELS, PREDICTIONS, weights)
    assert replaced == pytest.approx(plain * 4 / 6)


@pytest.mark.parametrize("mode", MODES)
def test_a_class_id_that_is_missing_never_reaches_the_loss(mode: str):
    """A NaN among class ids, which stops TensorFlow on the CPU, is left out before it is looked up."""
    labels = np.array([0, NAN, 2, 1, NAN, 1], "float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    value, _ = value_and_gradient(Guarded(loss), labels, PREDICTIONS, mode=mode)
    np.testing.assert_allclose(value, loss(labels[GOOD], PREDICTIONS[GOOD]), rtol=1e-6)


@pytest.mark.parametrize("softmax", [keras.ops.softmax, pytest.param(tf.nn.softmax, marks=pytest.mark.long)])
@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.long)])
def test_logits_behind_probabilities_are_still_found(softmax: Callable[..., Any], mode: str):
    """A loss that looks behind the softmax for the logits finds them, whether or not a sample is left out."""
    logits = (PREDICTIONS * 60).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy()

    def on_logits(loss: Any) -> Callable[..., tf.Tensor]:
        return lambda y_true, logits, weights: loss(y_true, softmax(logits), weights)

    plain, plain_gradient = value_and_gradient(on_logits(loss), [0.0, 2, 1, 1], logits[GOOD], mode=mode)
    # Without the logits, eager tf.nn.softmax, the value is bounded by that of the clip.
    assert plain > 20 or (mode == "eager" and softmax is tf.nn.softmax)
    for labels, rows in (([0.0, 2, 1, 1], slice(0, 4)), ([0.0, NAN, 2, 1, NAN, 1], GOOD)):
        batch = logits[GOOD] if len(labels) == 4 else logits
        value, gradient = value_and_gradient(on_logits(Guarded(loss)), labels, batch, mode=mode)
        np.testing.assert_array_max_ulp(value, plain, maxulp=2)
        np.testing.assert_array_max_ulp(gradient[rows], plain_gradient, maxulp=2)


def test_an_impossible_class_affects_nothing():
    """A logit of -inf, of which a loss makes a finite number, is no fault."""
    logits = np.array([[0.0, 1.0, -np.inf], [0.5, 2.0, -np.inf]], "float32")
    guarded = Guarded(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain, plain_gradient = value_and_gradient(guarded._loss, [0, 1], logits)
    assert np.isfinite(plain_gradient).all()
    value, gradient = value_and_gradient(guarded, [0, 1], logits)
    assert value == plain
    np.testing.assert_array_equal(gradient, plain_gradient)
    assert float(guarded.ignored.result()) == 0


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_loss_may_leave_out_missing_labels_itself(mode: str):
    """With `labels_may_be_missing` a sample is judged by value and gradient, and not by its labels."""

    def several_tasks(y_true: Any, y_pred: Any) -> tf.Tensor:
        known = tf.math.is_finite(y_true)
        return tf.reduce_sum(tf.square(tf.where(known, y_true - y_pred, 0.0)), -1)

    labels = LABELS.copy()
    labels[1, 2] = NAN
    guarded = Guarded(several_tasks, labels_may_be_missing=True)
    plain, _ = value_and_gradient(guarded._loss, labels, PREDICTIONS)
    assert value_and_gradient(guarded, labels, PREDICTIONS, mode=mode)[0] == plain
    assert float(guarded.ignored.result()) == 0
    strict = Guarded(several_tasks)
    value_and_gradient(strict, labels, PREDICTIONS, mode=mode)
    assert float(strict.ignored.result()) == 1


def test_numbers_too_large_to_square_affect_nothing():
    """A sample whose numbers are finite stays, even where their squares are not."""
    labels = LABELS * np.float32(1e25)
    guarded = Guarded("mae")
    value, _ = value_and_gradient(guarded, labels, PREDICTIONS)
    assert value == value_and_gradient(guarded._loss, labels, PREDICTIONS)[0]
    assert float(guarded.ignored.result()) == 0


@pytest.mark.skipif(KERAS_VERSION < (3, 7), reason="Keras itself takes no structures in a function's loss")
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_structures_of_tensors(mode: str):
    """Labels and predictions may be dicts, and one part that is not finite affects its sample."""

    def both(y_true: Any, y_pred: Any) -> tf.Tensor:
        return tf.reduce_sum(tf.square(y_true["a"] - y_pred["a"]), -1) + tf.abs(y_true["b"] - y_pred["b"])

    def call(y_true: Any, y_pred: Any, weights: Any) -> tf.Tensor:
        split = [{"a": y[:, :2], "b": y[:, 2]} for y in (y_true, y_pred)]
        return loss(*split)

    labels = LABELS.copy()
    labels[4, 2] = labels[1, 0] = NAN
    loss = Guarded(both)
    value, gradient = value_and_gradient(call, labels, PREDICTIONS, mode=mode)
    loss = loss._loss
    plain, plain_gradient = value_and_gradient(call, labels[GOOD], PREDICTIONS[GOOD])
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    np.testing.assert_allclose(gradient[GOOD], plain_gradient, rtol=1e-6)
    assert not gradient[list(BAD)].any()


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_second_derivatives(mode: str):
    """A gradient penalty sees the second derivatives of the samples that are left, and 0 for the others."""

    def penalty(loss: Any) -> Callable[..., tf.Tensor]:
        def call(y_true: Any, y_pred: Any, weights: Any) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = loss(y_true, y_pred)
            return tf.reduce_sum(tf.square(tape.gradient(value, y_pred)))

        return call

    given, labels, predictions, _ = broken("gradient")
    guarded = Guarded(given)
    value, gradient = value_and_gradient(penalty(guarded), labels, predictions, mode=mode)
    plain, plain_gradient = value_and_gradient(penalty(guarded._loss), labels[GOOD], predictions[GOOD])
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    np.testing.assert_allclose(gradient[GOOD], plain_gradient, atol=1e-7)
    assert not gradient[list(BAD)].any()


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_gradients_go_to_labels_and_to_what_the_loss_closes_over(mode: str):
    """The gradient reaches labels, and a variable that only the loss knows, as without the guard."""
    scale = tf.Variable(2.0)

    def scaled(y_true: Any, y_pred: Any) -> tf.Tensor:
        return scale * tf.reduce_mean(tf.square(y_true - y_pred), -1)

    def gradients(loss: Any, labels: Any, predictions: Any) -> Any:
        labels = tf.convert_to_tensor(labels)
        with tf.GradientTape() as tape:
            tape.watch(labels)
            value = loss(labels, predictions)
        return tape.gradient(value, (labels, scale))

    labels = LABELS.copy()
    labels[list(BAD)] = NAN
    guarded = Guarded(scaled)
    compute = gradients if mode == "eager" else tf.function(gradients, jit_compile=mode == "xla")
    ours = compute(guarded, labels, PREDICTIONS)
    plain = gradients(guarded._loss, labels[GOOD], PREDICTIONS[GOOD])
    np.testing.assert_allclose(tf.gather(ours[0], GOOD), plain[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], plain[1], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype: str):
    """Predictions of half and of double precision keep their dtype in the gradient."""
    labels = LABELS.copy()
    labels[list(BAD)] = NAN
    predictions = tf.cast(PREDICTIONS, dtype)
    value, gradient = value_and_gradient(Guarded("mse"), labels, predictions, mode="graph")
    plain, plain_gradient = value_and_gradient(
        keras.losses.MeanSquaredError(), labels[GOOD], tf.gather(predictions, GOOD)
    )
    assert value == plain
    assert gradient.dtype == predictions.dtype.as_numpy_dtype
    np.testing.assert_array_equal(gradient[GOOD], plain_gradient)


def test_an_empty_batch():
    """A batch of no samples is whatever the loss makes of it."""
    plain = keras.losses.MeanSquaredError()(LABELS[:0], PREDICTIONS[:0])
    np.testing.assert_array_equal(Guarded("mse")(LABELS[:0], PREDICTIONS[:0]), plain)


class TestRaise:
    def message(self, loss: Any, *batch: Any) -> list[str]:
        with pytest.raises(NonFiniteError) as caught:
            Guarded(loss, "raise")(*batch)
        return str(caught.value).splitlines()

    def test_names_rows_and_labels(self):
        """Missing labels are named by their rows, with the hazard."""
        _, labels, predictions, _ = broken("label")
        lines = self.message("mse", labels, predictions)
        assert lines[0] == "NG703 missing-labels"
        assert lines[1] == "  what      the loss 'mse' is not usable in 2 of 6 samples: rows 1, 4"
        assert lines[2] == "  received  NaN or Inf: y_true in rows 1, 4"
        assert lines[-1] == "  more      nanguard explain NG703"

    def test_names_predictions(self):
        """A prediction that the model made NaN is said to be the model's."""
        _, labels, predictions, _ = broken("prediction")
        lines = self.message("mse", labels, predictions)
        assert "  received  NaN or Inf: y_pred in rows 1, 4" in lines
        assert "nanguard run" in lines[-1]

    @pytest.mark.parametrize(
        ("kind", "code", "line", "what"),
        [
            ("value", "NG101", "return -tf.math.log(y_pred[:, 0])", "Log gave -inf (forward pass)"),
            (
                "gradient",
                "NG301",
                "return tf.norm(y_true - y_pred, axis=-1)",
                "Sqrt has a gradient of +inf (gradient alone: the value is finite)",
            ),
        ],
    )
    def test_names_op_hazard_and_line(self, kind: str, code: str, line: str, what: str):
        """For a fault of the loss itself the op, the hazard and the user's line are told."""
        loss, labels, predictions, _ = broken(kind)
        text = "\n".join(self.message(loss, labels, predictions))
        assert text.startswith(code)
        assert what in text
        assert line in text
        assert f"nanguard explain {code}" in text

    def test_a_graph_stops_with_the_same_message(self):
        """In a graph TensorFlow raises, and shows the message with the rows."""
        loss, labels, predictions, _ = broken("gradient")
        with pytest.raises(tf.errors.UnknownError, match=r"NG301 sqrt-gradient-at-zero[^$]*rows 1, 4"):
            value_and_gradient(Guarded(loss, "raise"), labels, predictions, mode="graph")

    @pytest.mark.parametrize("given", [distance, mean_distance])
    def test_xla_gives_nan(self, given: Any):
        """Under XLA, where nothing can stop, the loss becomes NaN though its value was finite."""
        _, labels, predictions, _ = broken("gradient")
        value, _ = value_and_gradient(Guarded(given, "raise"), labels, predictions, mode="xla")
        assert np.isnan(value)


def table() -> tuple[Any, Any]:
    """A regression that a line fits; two labels are missing, and one prediction is exact from the start."""
    features = np.random.default_rng(1).normal(size=(64, 3)).astype("float32")
    features[10] = 0
    labels = (features @ np.array([[1.0], [2.0], [-1.0]])).astype("float32")
    labels[[3, 40]] = NAN
    return features, labels


def model_with(loss: Any, **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss=loss, **{"jit_compile": False, **options})
    return model


# What Keras 3.6 says with several steps to an execution.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps_per_execution": 2},
        *(pytest.param(options, marks=pytest.mark.long) for options in ({"run_eagerly": True}, {"jit_compile": True})),
    ],
    ids=str,
)
def test_fit_logs_what_was_ignored(options: dict[str, Any], tmp_path: Path):
    """`fit` trains to a finite model and logs the samples that were left out in each epoch, for validation too."""
    features, labels = table()
    model = model_with(Guarded(distance), **options)
    file = tmp_path / "log.csv"
    history = model.fit(
        features,
        labels,
        batch_size=16,
        epochs=8,
        verbose=0,
        validation_data=(features[:8], labels[:8]),
        callbacks=[keras.callbacks.CSVLogger(file)],
    ).history
    assert history["distance_ignored"] == [3.0] * 8
    assert history["val_distance_ignored"] == [1.0] * 8
    assert "val_distance_ignored" in file.read_text().splitlines()[0]
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert model.evaluate(features, labels, verbose=0, return_dict=True)["distance_ignored"] == 3


def test_fit_is_that_of_the_plain_loss_while_all_is_finite():
    """Training on finite data ends with the same bits as without the guard."""
    features, labels = table()
    labels = np.nan_to_num(labels)
    weights = []
    for loss in ("mse", Guarded("mse")):
        model = model_with(loss)
        model.fit(features, labels, batch_size=16, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for plain, ours in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, plain)


def test_several_guarded_losses_have_names_of_their_own():
    """With several outputs each guarded loss is logged under the name of its output, and one shared by all once."""
    features, labels = table()
    inputs = keras.Input((3,))
    outputs = [keras.layers.Dense(1, name=name)(inputs) for name in "ab"]
    targets = [labels, labels[::-1]]
    for loss, logged in (
        ({"a": Guarded("mse"), "b": Guarded("mse")}, {"a_ignored": 2.0, "b_ignored": 2.0}),
        ([Guarded("mse"), Guarded("mae", "replace")], {"a_ignored": 2.0, "b_replaced": 2.0}),
        (Guarded("mse"), {"mse_ignored": 4.0}),
    ):
        model = keras.Model(inputs, outputs)
        model.compile("sgd", loss, jit_compile=False)
        history = model.fit(features, targets, verbose=0).history
        assert {name: found[0] for name, found in history.items() if not name.endswith("loss")} == logged


def test_mixed_precision():
    """Under float16 with a loss scale the count and the training are right."""
    features, labels = table()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = model_with(Guarded("mse"))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    history = model.fit(features, labels, batch_size=16, epochs=3, verbose=0).history
    assert history["mse_ignored"] == [2.0] * 3
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, of its variables
def test_a_compiled_model_is_saved_and_loaded(tmp_path: Path):
    """A compiled model with a guarded loss goes on where it was saved."""
    features, labels = table()
    guarded = Guarded(keras.losses.LogCosh(), "replace", replacement=0.25, name="robust", reduction="sum")
    model = model_with(guarded)
    model.fit(features, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == guarded.get_config()
    histories = [m.fit(features, labels, shuffle=False, verbose=0).history for m in (model, loaded)]
    assert histories[0] == histories[1]
    assert histories[0]["robust_replaced"] == [2.0]


@pytest.mark.parametrize("given", ["mse", distance, keras.losses.Huber()])
def test_config(given: Any):
    """A guarded loss is made anew from its configuration."""
    guarded = Guarded(given, reduction="none")
    with keras.saving.custom_object_scope({"distance": distance}):
        again = Guarded.from_config(guarded.get_config())
    assert again.get_config() == guarded.get_config()
    assert again.name == guarded.name
    np.testing.assert_array_equal(again(LABELS, PREDICTIONS), guarded(LABELS, PREDICTIONS))


SCRIPT = """
import numpy as np
from nanguard.losses.guarded import Guarded

quiet, shown = Guarded("mse"), Guarded("mae")
labels, predictions = np.float32([[1], [np.nan], [2]]), np.zeros((3, 1), "float32")
for loss in (quiet, shown):
    for _ in range(3):
        loss(labels, predictions)
    loss.ignored.reset_state()
    loss(labels, predictions)
    if loss is shown:
        print(float(loss.ignored.result()))
"""


def test_what_no_log_showed_is_told_at_the_end():
    """A script that never reads the count is told it in one line when it ends."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    told = [line for line in done.stderr.splitlines() if line.startswith("nanguard")]
    assert told == ["nanguard: samples of guarded losses that no log showed: 4 mse_ignored, 3 mae_ignored"]


MIRRORED = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from nanguard.losses.guarded import Guarded

x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
y = x[:, :1].copy()
y[[3, 40]] = np.nan
guarded = Guarded("mse")
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", guarded, jit_compile=False)
history = model.fit(x, y, batch_size=16, epochs=2, verbose=0).history
print(history["mse_ignored"], bool(np.isfinite(history["loss"]).all()))
"""


@pytest.mark.skipif(KERAS_VERSION < (3, 7), reason="the first epoch of a strategy is counted in part there")
def test_mirrored_strategy():
    """The counts of two replicas are added up, wherever the loss was made."""
    done = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True, timeout=180, check=True)
    assert done.stdout.splitlines()[-1] == "[2.0, 2.0] True"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("mse", "skip"), {}, "`on_nonfinite` must be one of ignore, replace, raise"),
        (("mse", "replace"), {"replacement": NAN}, "`replacement` must be finite"),
        ((3,), {}, "`loss` must be a loss, the name of one, or a function"),
    ],
)
def test_bad_arguments(arguments: Any, options: Any, message: str):
    """A bad argument is told with its rule."""
    with pytest.raises(ValueError, match=message):
        Guarded(*arguments, **options)


def test_a_prediction_without_samples():
    """A single number has no axis of samples, which is said."""
    with pytest.raises(ValueError, match="must have an axis of samples"):
        Guarded("mse")(1.0, 2.0)


def test_fit_logs_no_warning_of_tensorflow():
    """A guarded fit makes no graph of which TensorFlow says that it is invalid, with its log lines on."""
    script = """
        import keras, numpy as np, tensorflow as tf
        from nanguard.losses import Guarded

        def distance(y_true, y_pred):
            return tf.sqrt(tf.reduce_sum((y_true - y_pred) ** 2, axis=-1))

        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile("sgd", Guarded(distance))
        model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0)
    """
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert "invalid graph" not in done.stderr
