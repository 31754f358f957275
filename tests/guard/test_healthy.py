"""What is healthy stays silent: a non-finite number that no loss, gradient, weight or state feels is no incident."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

STEPS = 3
X = np.array([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, -1.0, 2.0]], np.float32)


def masked_attention(x: Any, w: Any) -> Any:
    """Scores of the future are masked with `-inf` before a softmax."""
    mask = tf.linalg.band_part(tf.ones([4, 4]), -1, 0)
    scores = tf.where(mask > 0, x[:, :, None] * x[:, None, :] * w, -np.inf)
    return tf.reduce_mean(tf.nn.softmax(scores) ** 2)


def added_mask(x: Any, w: Any) -> Any:
    """A mask of `-inf` is added, as hand-written attention does."""
    return tf.reduce_mean(tf.nn.softmax(x * w + tf.constant([0.0, 0.0, -np.inf, 0.0])) ** 2)


def safe_where(x: Any, w: Any) -> Any:
    """The input of a logarithm is made safe where its output is not used."""
    return tf.reduce_mean(tf.where(x > 0, tf.math.log(tf.where(x > 0, x, 1.0)), 0.0) * w)


def unused_infinity(x: Any, w: Any) -> Any:
    """An infinite value that `tf.where` throws away, and that no gradient goes through."""
    return tf.reduce_mean(tf.where(x < 9.0, x * w, tf.stop_gradient(1.0 / tf.nn.relu(x))))


def infinity_divides_away(x: Any, w: Any) -> Any:
    """A constant divided by an infinite distance is 0."""
    return tf.reduce_mean(w * x / (1.0 + tf.stop_gradient(1.0 / tf.nn.relu(x))))


def capped(x: Any, w: Any) -> Any:
    """An infinite limit in a minimum."""
    return tf.reduce_mean(tf.minimum(x * w, np.inf) ** 2)


def epsilon(x: Any, w: Any) -> Any:
    """A logarithm that is kept off 0."""
    return tf.reduce_mean(tf.math.log(tf.nn.relu(x * w) + 1e-6))


def printed_nan(x: Any, w: Any) -> Any:
    """A NaN that is computed and goes nowhere."""
    tf.debugging.assert_equal(tf.math.is_nan(tf.reduce_sum(x) * np.nan), True)
    return tf.reduce_mean(x * w)


def huge_but_finite(x: Any, w: Any) -> Any:
    """A gradient whose square overflows in float32 is a finite gradient."""
    return tf.reduce_mean(x * w) * 1e25


PATTERNS = [
    masked_attention,
    added_mask,
    safe_where,
    unused_infinity,
    infinity_divides_away,
    capped,
    epsilon,
    printed_nan,
    huge_but_finite,
]
DECORATORS: dict[str, Callable[[Any], Any]] = {
    "traced": tf.function,
    "compiled": tf.function(jit_compile=True),
    "eager": lambda step: step,
}


@pytest.mark.parametrize("how", DECORATORS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_healthy_step(watched: Any, pattern: Any, how: str):
    """Not even a suspicion, however the step runs; training goes on to its end."""
    weight = tf.Variable(tf.fill([4], 0.5))

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = pattern(x, weight)
        weight.assign_sub(1e-27 * tape.gradient(loss, weight))
        return loss

    step = DECORATORS[how](step)
    for _ in range(STEPS):
        assert np.isfinite(float(step(tf.constant(X))))
    assert not watched.captures
    assert not watched.forgotten
    assert np.isfinite(weight).all()


def compiled_model(**options: Any) -> Any:
    """A model that is ready to be fitted."""
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile(**{"optimizer": "sgd", "loss": "mse", "jit_compile": False, **options})
    return model


@pytest.mark.parametrize("value", [pytest.param(np.inf, marks=pytest.mark.long), np.nan])
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_metric_that_is_not_finite(watched: Any, value: float, jit: bool):
    """A metric alone is no incident."""
    watched.is_judging = True

    def metric(y: Any, p: Any) -> Any:
        return tf.reduce_mean(p) * 0.0 + value

    model = compiled_model(metrics=[metric], jit_compile=jit)
    history = model.fit(X, X[:, :1], batch_size=1, epochs=2, verbose=0).history
    assert not np.isfinite(history["metric"]).any()
    assert not watched.captures
    assert watched.watch.steps == 4
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_data_that_is_only_looked_at(watched: Any):
    """Validation, evaluation and prediction may meet NaN: nothing is learnt from it."""
    model = compiled_model()
    bad = np.full_like(X, np.nan)
    history = model.fit(X, X[:, :1], verbose=0, validation_data=(bad, X[:, :1])).history
    assert np.isnan(history["val_loss"]).all()
    assert np.isnan(model.predict(bad, verbose=0)).all()
    assert np.isnan(model.evaluate(bad, X[:, :1], verbose=0))
    assert not watched.captures
    assert not watched.forgotten


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_overflow_that_the_loss_scale_makes(watched: Any, eager: bool):
    """Scaled gradients that overflow in float16 are looked into and forgotten; training goes on with a lower scale."""
    watched.is_judging = True
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((4,), dtype="float16"), keras.layers.Dense(1, dtype="mixed_float16")])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**17)
    model.compile(optimizer, "mse", jit_compile=False, run_eagerly=eager)
    model.fit(X, X[:, :1] * 4, batch_size=2, epochs=8, verbose=0)
    assert not watched.captures
    assert watched.forgotten
    assert {capture.seen_in for capture in watched.forgotten} == {("gradients",)}
    assert float(optimizer.dynamic_scale.numpy()) == 2.0 ** (17 - len(watched.forgotten))
    assert watched.watch.steps == 8 - len(watched.forgotten) > 0


def test_forward_pass_that_overflows_under_a_loss_scale(watched: Any):
    """A loss that is not finite by itself is an incident, whatever the scale."""
    watched.is_judging = True
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    variable = keras.Variable([1.0])
    optimizer.build([variable])

    @tf.function
    def step(x: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.cast(tf.reduce_sum(tf.exp(tf.cast(x * variable, tf.float16))), tf.float32)
            scaled = optimizer.scale_loss(loss)
        optimizer.apply_gradients([(tape.gradient(scaled, variable), variable)])

    step(tf.constant([1.0]))
    with pytest.raises(watched.Stopped):
        step(tf.constant([20.0]))
    assert "loss" in watched.captures[0].seen_in


def test_script_that_handles_its_own_errors(watched: Any):
    """An error of the script's own in a traced step reaches it as it would without a watch."""
    weight = tf.Variable(1.0)

    @tf.function
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tf.debugging.assert_positive(x)
            loss = x * weight
        weight.assign_sub(tape.gradient(loss, weight))
        return loss

    step(tf.constant(1.0))
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(tf.constant(-1.0))
    assert not watched.captures
