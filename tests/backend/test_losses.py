"""The private parts of Keras and TensorFlow that the guard of losses stands on; a test's name says what moved."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nanguard.backend import losses


def test_xla_is_known_while_tracing():
    """A function that XLA will compile is known while it is traced, its branches and inner functions with it."""
    seen: list[bool] = []

    def look(x: tf.Tensor) -> tf.Tensor:
        seen.append(losses.is_compiled_by_xla())
        return x + 1.0

    def outer(x: tf.Tensor) -> tf.Tensor:
        return tf.cond(x > 0.0, lambda: look(x), lambda: x) + tf.function(look)(x)

    look(tf.constant(1.0))
    tf.function(outer)(tf.constant(1.0))
    assert seen == [False] * 3
    seen.clear()
    tf.function(outer, jit_compile=True)(tf.constant(1.0))
    assert seen == [True] * 2


def test_keras_logs_and_resets_what_the_trainer_lists_as_metrics():
    """`fit` and `evaluate` log and reset all that the trainer's `metrics` lists, of compiled models."""
    trainer: Any = losses.trainer_class()
    before = trainer.__dict__["metrics"]
    count = keras.metrics.Sum(name="seen")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    assert isinstance(model, trainer)
    try:
        losses.log_metrics_of_losses(lambda model: [count])
        assert count not in model.metrics
        model.compile("sgd", "mse", jit_compile=False)
        assert count in model.metrics
        count.update_state(3.0)
        history = model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0).history
        assert history["seen"] == [0.0]
        assert "seen" in model.evaluate(np.ones((2, 1)), np.ones((2, 1)), verbose=0, return_dict=True)
    finally:
        trainer.metrics = before


def test_metrics_of_losses_are_listed_once():
    """Asking for it twice lists the metrics of the losses once."""
    trainer: Any = losses.trainer_class()
    before = trainer.__dict__["metrics"]
    count = keras.metrics.Sum(name="seen")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    known = getattr(before.fget, "nanguards", None)
    try:
        for _ in range(2):
            losses.log_metrics_of_losses(lambda model: [count])
        assert [metric is count for metric in model.metrics].count(True) == 1
    finally:
        trainer.metrics = before
        if known is not None:
            before.fget.nanguards = known


def test_keras_makes_a_loss_of_a_function():
    """Keras wraps a function in this class, as it does when a model is compiled with one."""
    made = losses.function_loss_class()(lambda y_true, y_pred: y_pred - y_true, name="difference", reduction="sum")
    assert isinstance(made, keras.losses.Loss)
    assert float(made(np.ones((2, 1)), np.full((2, 1), 3.0))) == 4.0
    assert type(made).__call__ is keras.losses.Loss.__call__
