"""What all losses promise that Keras does not have: finite numbers for finite numbers, in every way to run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses
from nanguard.intervals import float_format

BATCH = 6
DTYPES = ("float16", "bfloat16", "float32", "float64")
NUMBERS = [0, 1e-45, 1.2e-38, 1e-19, 1e-7, 0.5, 1 - 6e-8, 1, 1 + 1e-7, 2, 10, 43.7, 88.7, 89, 100, 1e4, 1e10, 1e15]
NUMBERS += [1e19, 1e25, 1e30, 1.7e38, 3.4028234e38]


def any_number(rng, *shape):
    """Gives special numbers alone, among ordinary ones, all the same, or scaled at random."""
    special = rng.choice(NUMBERS, shape) * rng.choice([-1, 1], shape)
    ordinary = rng.normal(size=shape)
    ways = [special, np.where(rng.random(shape) < 0.3, special, ordinary), np.full(shape, special.flat[0]), ordinary]
    return [*ways, special * rng.random(shape)][rng.integers(5)]


def probability(rng, *shape):
    """Gives probabilities, most of them saturated, and now and then what is none."""
    ways = [rng.random(shape), rng.integers(0, 2, shape), rng.choice([0, 1e-40, 1e-8, 0.5, 1 - 6e-8, 1], shape)]
    return [*ways, any_number(rng, *shape)][rng.integers(4)]


def class_number(rng, *shape):
    """Gives one of three classes."""
    return rng.integers(0, 3, shape).astype("int32")


def survival(rng, *shape):
    """Gives times with ties, and whether there was an event."""
    return np.stack([rng.integers(0, 4, shape), rng.integers(0, 2, shape)], -1)


@dataclass(frozen=True)
class Case:
    """A loss class with its arguments, and what it is fed with."""

    loss: type
    target: Callable[..., Any]
    target_shape: tuple[int, ...]
    prediction: Callable[..., Any]
    prediction_shape: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.loss.__name__, *(f"{name}={value}" for name, value in self.arguments.items())])

    def draw(self, rng, dtype):
        """Gives a batch in which all numbers are finite in the dtype."""
        limit = float_format(dtype).max
        target = self.target(rng, BATCH, *self.target_shape)
        if target.dtype != "int32":
            target = tf.cast(np.clip(target, -limit, limit), dtype)
        prediction = self.prediction(rng, BATCH, *self.prediction_shape)
        return tf.constant(target), tf.cast(np.clip(prediction, -limit, limit), dtype)

    def run(self, y_true, y_pred):
        """Gives the values of the function, and the gradient."""
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            values = self.loss.function(y_true, y_pred, **self.arguments)
        return values, tape.gradient(values, y_pred)


A = any_number
CASES = [
    Case(losses.ArcFace, class_number, (), A, (3,)),
    Case(losses.BetaNLL, probability, (2,), A, (4,)),
    Case(losses.BetaNLL, probability, (2,), A, (4,), {"log_input": False}),
    Case(losses.Contrastive, probability, (1,), A, (1,)),
    Case(losses.CoxPartialLikelihood, survival, (), A, ()),
    Case(losses.CoxPartialLikelihood, survival, (), A, (), {"ties": "efron"}),
    Case(losses.FocalTversky, probability, (9,), probability, (9,), {"gamma": 3.0, "smooth": 0.0}),
    Case(losses.GaussianNLL, A, (2,), A, (4,), {"full": True}),
    Case(losses.GaussianNLL, A, (2,), A, (4,), {"beta": 1.0, "epsilon": 1e-12}),
    Case(losses.GaussianNLL, A, (2,), A, (4,), {"log_variance": False, "beta": 0.5}),
    Case(losses.GeneralizedDice, probability, (3, 3, 2), probability, (3, 3, 2)),
    Case(losses.Jaccard, probability, (3, 3, 2), probability, (3, 3, 2)),
    Case(losses.MixtureDensity, A, (2,), A, (15,), {"components": 3}),
    Case(losses.NTXent, A, (3,), A, (3,)),
    Case(losses.NegativeBinomialNLL, A, (2,), A, (4,)),
    Case(losses.NegativeBinomialNLL, A, (2,), A, (4,), {"log_input": False}),
    Case(losses.NormalKL, A, (4,), A, (4,)),
    Case(losses.PPO, A, (2,), A, ()),
    Case(losses.PPO, A, (2,), A, (1,), {"dual_clip": 3.0}),
    Case(losses.PoissonNLL, A, (2,), A, (2,), {"full": True}),
    Case(losses.PoissonNLL, A, (2,), A, (2,), {"log_input": False}),
    Case(losses.Quantile, A, (1,), A, (3,), {"quantiles": [0.1, 0.5, 0.9]}),
    Case(losses.RootMeanSquaredError, A, (2,), A, (2,)),
    Case(losses.SigmoidFocal, probability, (2,), A, (2,), {"gamma": 0.3}),
    Case(losses.SigmoidFocal, probability, (2,), probability, (2,), {"from_logits": False}),
    Case(losses.SoftmaxFocal, class_number, (), A, (3,), {"gamma": 0.5}),
    Case(losses.SoftmaxFocal, probability, (3,), probability, (3,), {"from_logits": False}),
    Case(losses.SupervisedContrastive, class_number, (), A, (3,)),
    Case(losses.Triplet, class_number, (), A, (3,)),
    Case(losses.Triplet, class_number, (), A, (3,), {"mining": "hard", "squared": True}),
    Case(losses.Triplet, class_number, (), A, (3,), {"mining": "all", "normalize": True}),
    Case(losses.Wasserstein, A, (1,), A, (1,)),
]
for_each_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.mark.one_in(2)
@for_each_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_numbers_give_finite_values_and_gradients(case, dtype):
    """So are the squares of the gradients, which Adam keeps, but for float16; the value has the predictions' dtype."""
    rng = np.random.default_rng(0)
    batches = [case.draw(rng, dtype) for _ in range(40)]

    @tf.function
    def run(y_true, y_pred):
        return case.run(y_true, y_pred)

    for y_true, y_pred in batches:
        values, slopes = run(y_true, y_pred)
        assert values.dtype == y_pred.dtype == slopes.dtype
        assert np.all(np.isfinite(values))
        assert np.all(np.isfinite(slopes if dtype == "float16" else tf.square(slopes)))


@pytest.mark.one_in(2)
@for_each_case
def test_eager_graph_and_xla_agree(case):
    """They do on ordinary numbers, and on special ones XLA too is finite."""
    rng = np.random.default_rng(1)
    compiled = tf.function(case.run, jit_compile=True)
    for place in range(8):
        y_true, y_pred = case.draw(rng, "float32")
        if place == 0:
            y_pred = tf.constant(rng.random(y_pred.shape), tf.float32)
        (values, slopes), (eager_values, eager_slopes) = compiled(y_true, y_pred), case.run(y_true, y_pred)
        for x in (values, slopes, eager_values, eager_slopes):
            assert np.all(np.isfinite(tf.square(x) if x is slopes or x is eager_slopes else x))
        if place == 0 and np.all(np.abs(y_true) < 100):
            np.testing.assert_allclose(values, eager_values, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(slopes, eager_slopes, rtol=1e-3, atol=1e-4)


@for_each_case
def test_a_nan_in_a_row_makes_its_loss_nan(case):
    """A loss hides no NaN; to leave such a row out is what `Guarded` is for."""
    rng = np.random.default_rng(2)
    for place in range(4):
        y_true, y_pred = case.draw(rng, "float32")
        y_pred = y_pred.numpy()
        y_pred[place] = np.nan
        assert np.isnan(case.loss.function(y_true, y_pred, **case.arguments)[place])


@for_each_case
def test_an_empty_or_wholly_masked_batch_gives_0(case):
    """The gradient is 0 too, also if all that is masked is NaN."""
    rng = np.random.default_rng(3)
    loss = case.loss(**case.arguments)
    y_true, y_pred = case.draw(rng, "float32")
    for some, weight in ((y_pred * np.nan, tf.zeros(BATCH)), (y_pred[:0], None)):
        with tf.GradientTape() as tape:
            tape.watch(some)
            value = loss(y_true[: len(some)], some, sample_weight=weight)
        assert value == 0
        assert not np.any(tape.gradient(value, some))


@for_each_case
def test_a_configuration_makes_the_same_loss(case):
    """Arguments, reduction and name come back."""
    loss = case.loss(**case.arguments, reduction="sum", name="other")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


# What Keras asks of NumPy when it saves a variable.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_a_compiled_model_saves_and_loads_with_its_loss(tmp_path: Path):
    """It trains on with the same loss afterwards."""
    rng = np.random.default_rng(4)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile("sgd", losses.GaussianNLL(beta=0.5))
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.loss.arguments["beta"] == 0.5
    assert again.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))


@for_each_case
def test_a_second_derivative_is_that_of_the_first(case):
    """As a gradient penalty takes it: the slope of the first derivative along a direction, by differences."""
    rng = np.random.default_rng(6)
    y_true, y_pred = case.draw(rng, "float64")
    if case.target in (any_number, probability):
        y_true = tf.constant(rng.random(y_true.shape))
    y_pred = tf.constant(0.1 + 0.8 * rng.random(y_pred.shape))
    direction = tf.constant(rng.normal(size=y_pred.shape))

    def along(y):
        return tf.reduce_sum(case.run(y_true, y)[1] * direction)

    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        first = along(y_pred)
    second = tape.gradient(first, y_pred, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    assert np.all(np.isfinite(second))
    if "beta" not in case.arguments:  # Its weight is held still, and the matrix of second derivatives not symmetric.
        difference = along(y_pred + 1e-6 * direction) - along(y_pred - 1e-6 * direction)
        np.testing.assert_allclose(tf.reduce_sum(second * direction), difference / 2e-6, rtol=1e-4, atol=1e-4)


@for_each_case
def test_shapes_need_not_be_known(case):
    """A function traced for any batch size and any length gives what eager mode gives."""
    y_true, y_pred = case.draw(np.random.default_rng(7), "float32")
    y_pred = tf.constant(np.random.default_rng(8).random(y_pred.shape), tf.float32)
    fixed = {losses.MixtureDensity: y_true.shape[-1]}.get(case.loss)
    signature = [
        tf.TensorSpec([None] * (y_true.shape.rank - 1) + [fixed], y_true.dtype),
        tf.TensorSpec([None] * (y_pred.shape.rank - 1) + ([y_pred.shape[-1]] if y_pred.shape.rank > 1 else [None])),
    ]
    values, slopes = tf.function(case.run, input_signature=signature)(y_true, y_pred)
    wanted, wanted_slopes = case.run(y_true, y_pred)
    np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes, wanted_slopes, rtol=1e-4, atol=1e-5)


def test_a_saturated_prediction_learns_under_mixed_precision():
    """The loss has the logits behind a float16 sigmoid that is exactly 0."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(-60.0))]
        )
        model.add(keras.layers.Activation("sigmoid"))
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.SGD(1.0), losses.SigmoidFocal(from_logits=False))
    model.fit(np.zeros((4, 1)), np.ones((4, 1)), verbose=0)
    assert model.layers[0].bias.numpy()[0] > -60


@for_each_case
def test_one_step_of_adam_leaves_finite_weights(case):
    """Then a clean step does too."""
    rng = np.random.default_rng(5)
    for _ in range(3):
        y_true, y_pred = case.draw(rng, "float32")
        weights = keras.Variable(y_pred)
        optimizer = keras.optimizers.Adam()
        for slopes in (case.run(y_true, tf.convert_to_tensor(weights))[1], tf.zeros_like(y_pred)):
            optimizer.apply([slopes], [weights])
            assert np.all(np.isfinite(weights.value))
