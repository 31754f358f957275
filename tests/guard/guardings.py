"""What the tests of the guard train: small models in the ways that people train them, and batches that are not finite.

A test trains twice: with bad batches under a guard, and under a guard that never sees them. All bits have to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import nanguard as ng

ROWS, FEATURES = 8, 6
Batch = tuple[Any, Any]
Build = Callable[..., Any]  # gives a compiled model; takes what `compile` takes
BUILDS: dict[str, Build] = {}


def build(function: Build) -> Build:
    """Registers a way to train."""
    BUILDS[function.__name__] = function
    return function


def batches(number: int = 5, seed: int = 0) -> list[Batch]:
    """Healthy batches."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        x = random.normal(size=(ROWS, FEATURES)).astype("float32")
        found.append((x, np.tanh(x[:, :1] + 0.3 * random.normal(size=(ROWS, 1))).astype("float32")))
    return found


def bad(value: float = np.nan, *, seed: int = 99) -> Batch:
    """A batch with one number in its features that no training survives."""
    ((x, y),) = batches(1, seed)
    x[3, 2] = value
    return x, y


def with_bad(good: Sequence[Batch], value: float = np.nan) -> list[Batch]:
    """The batches with bad ones at the start, in the middle (two in a row) and at the end."""
    middle = len(good) // 2
    return [bad(value), *good[:middle], bad(value), bad(value, seed=98), *good[middle:], bad(value)]


def dataset(parts: Sequence[Any]) -> tf.data.Dataset:
    """The batches as a data set."""
    leaves = [tf.nest.flatten(part) for part in parts]
    columns = [tf.data.Dataset.from_tensor_slices(np.stack(column)) for column in zip(*leaves, strict=True)]
    return tf.data.Dataset.zip(tuple(columns)).map(lambda *row: tf.nest.pack_sequence_as(parts[0], row))


def guard(*args: Any, **options: Any) -> Any:
    """A guard that writes nothing."""
    return ng.Guard(*args, **{"quarantine": None, "verbose": False, "num_explained": 0, **options})


def trained(
    build: Build, parts: Sequence[Any], *callbacks: Any, epochs: int = 2, fit: dict[str, Any] | None = None,
    **compiled: Any,
) -> dict[str, Any]:  # fmt: skip
    """Trains a new model on the batches, and gives every bit that is left of it.

    Names are by place: two models of one process have other names.
    """
    keras.utils.set_random_seed(1)
    model = build(**compiled)
    history = model.fit(
        dataset(parts), epochs=epochs, callbacks=list(callbacks), shuffle=False, verbose=0, **(fit or {})
    ).history
    return {**everything(model), **{f"history/{key}": np.array(value) for key, value in history.items()}}


def everything(model: Any, *optimizers: Any) -> dict[str, Any]:
    """All variables of model, metrics, optimizers, and Keras's and TensorFlow's random generators."""
    found = {f"model/{place}": v.numpy() for place, v in enumerate(model.variables)}
    for metric in model.metrics:
        found |= {f"metric/{metric.name}/{place}": v.numpy() for place, v in enumerate(metric.variables)}
    own = [getattr(model, name) for name in ("optimizer", "first", "second") if getattr(model, name, None) is not None]
    for number, optimizer in enumerate([*own, *optimizers]):
        for place, v in enumerate(optimizer.variables):
            found[f"optimizer{number}/{place}"] = tf.convert_to_tensor(v).numpy()
    return found


def is_ours(key: str) -> bool:
    """Whether a key of `trained` is one of the guard's own measurements."""
    return "nanguard/" in key


def differences(found: dict[str, Any], expected: dict[str, Any], *, but: Callable[[str], bool] = is_ours) -> list[str]:
    """What is not the same in every bit."""
    keys = sorted(key for key in {*found, *expected} if not but(key))
    return [
        f"{key}: {_few(found.get(key))} for {_few(expected.get(key))}"
        for key in keys
        if key not in found
        or key not in expected
        or np.asarray(found[key]).tobytes() != np.asarray(expected[key]).tobytes()
    ]


def far(found: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-5) -> list[str]:
    """What is not the same but for the last bits, as XLA may fuse another program otherwise."""
    return [
        f"{key}: {_few(found[key])} for {_few(value)}"
        for key, value in expected.items()
        if not is_ours(key) and not np.allclose(found[key], value, rtol=rtol, atol=1e-6, equal_nan=False)
    ]


def _few(value: Any) -> Any:
    return None if value is None else np.ravel(value)[:4]


# -- the ways to train


def sequential(*layers: Any) -> Any:
    """A regression with the given layers in the middle."""
    return keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(8, activation="relu"), *layers, keras.layers.Dense(1)]
    )


def compiled(model: Any, optimizer: Any = "adam", **options: Any) -> Any:
    """The model, compiled; not by XLA unless that is asked for."""
    model.compile(optimizer, **{"loss": "mse", "jit_compile": False, **options})
    return model


@build
def plain(**options: Any) -> Any:
    return compiled(sequential(), **options)


@build
def batch_norm_dropout_metrics(**options: Any) -> Any:
    layers = keras.layers
    model = sequential(layers.BatchNormalization(), layers.Dropout(0.3), layers.GaussianNoise(0.1))
    return compiled(model, metrics=["mae", keras.metrics.MeanSquaredError(), keras.metrics.R2Score()], **options)


@build
def gradient_accumulation(**options: Any) -> Any:
    return compiled(sequential(), keras.optimizers.Adam(0.01, gradient_accumulation_steps=2), **options)


@build
def moving_average(**options: Any) -> Any:
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2)
    return compiled(sequential(), optimizer, **options)


@build
def schedule_decay_clipnorm(**options: Any) -> Any:
    rate = keras.optimizers.schedules.CosineDecay(0.01, 6)
    return compiled(sequential(), keras.optimizers.AdamW(rate, weight_decay=0.1, clipnorm=0.1), **options)


@build
def momentum_global_clipnorm(**options: Any) -> Any:
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, global_clipnorm=0.5)
    return compiled(sequential(), optimizer, **options)


@build
def untrusted_optimizer(**options: Any) -> Any:
    return compiled(sequential(), keras.optimizers.RMSprop(0.01, centered=True, momentum=0.5), **options)


@build
def sparse_gradients(**options: Any) -> Any:
    layers = keras.layers
    x = keras.Input((FEATURES,))
    places = keras.ops.cast(keras.ops.clip(keras.ops.nan_to_num(x) + 5, 0, 9), "int32")
    y = layers.Dense(1)(keras.ops.mean(layers.Embedding(10, 4)(places), axis=1) * keras.ops.mean(x, -1, keepdims=True))
    return compiled(keras.Model(x, y), **options)


@build
def several_outputs(**options: Any) -> Any:
    x = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(8, activation="tanh")(x)
    model = keras.Model(x, [keras.layers.Dense(1, name="one")(hidden), keras.layers.Dense(1, name="two")(hidden)])

    class Twice(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def call(self, x: Any) -> Any:
            return self.inner(x)

        def train_step(self, data: Any) -> Any:
            return super().train_step((data[0], [data[1], -data[1]]))

    return compiled(Twice(), loss=["mse", "mae"], metrics=[["mae"], ["mse"]], **options)


class Scaled(keras.layers.Layer):
    """Holds a counter, a seed, a running mean and an extra loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)
        self.mean = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign_add(1)
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(x))
            x += keras.random.normal(keras.ops.shape(x), stddev=0.1, seed=self.seeds)
        self.add_loss(0.01 * keras.ops.mean(x**2))
        return x - self.mean


@build
def layer_state(**options: Any) -> Any:
    return compiled(sequential(Scaled()), metrics=["mae"], **options)


@build
def lstm(**options: Any) -> Any:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((FEATURES,)), layers.Reshape((3, 2)), layers.LSTM(4, dropout=0.2), layers.Dense(1)]
    )
    return compiled(model, **options)


class OwnStep(keras.Model):
    """A train step as Keras's guide writes it, with a metric of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = sequential(keras.layers.BatchNormalization())
        self.own = keras.metrics.Mean("own")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.inner(x, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        self.own.update_state(loss)
        return {"own": self.own.result()}


@build
def own_train_step(**options: Any) -> Any:
    return compiled(OwnStep(), **options)


class ByHand(OwnStep):
    """Writes its weights itself."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        for weight, grad in zip(self.trainable_variables, tape.gradient(loss, self.trainable_variables), strict=True):
            weight.assign(weight - 0.05 * grad)
        self.own.update_state(loss)
        return {"own": self.own.result()}


@build
def weights_by_hand(**options: Any) -> Any:
    return compiled(ByHand(), **options)


class Gan(keras.Model):
    """Two optimizers in one step: the discriminator's update comes first."""

    def __init__(self) -> None:
        super().__init__()
        layers = keras.layers
        self.generator = keras.Sequential(
            [keras.Input((3,)), layers.Dense(8, activation="relu"), layers.Dense(FEATURES)]
        )
        self.discriminator = sequential(layers.BatchNormalization())
        self.seeds = keras.random.SeedGenerator(5)
        self.own = keras.metrics.Mean("own")

    def compile(self, optimizer: Any, **options: Any) -> None:
        super().compile(**options)
        self.first, self.second = keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.02)

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        noise = keras.random.normal((ROWS, 3), seed=self.seeds)
        with tf.GradientTape() as tape:
            made = self.generator(noise, training=True)
            loss = tf.reduce_mean(
                tf.nn.softplus(-self.discriminator(x, training=True)) + tf.nn.softplus(self.discriminator(made))
            )
        weights = self.discriminator.trainable_variables
        self.first.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            made = self.generator(noise, training=True)
            # The labels are in the second loss alone: if they are bad, the first update was healthy.
            second = tf.reduce_mean(tf.nn.softplus(-self.discriminator(made))) + 0.0 * tf.reduce_mean(y)
            second += 0.0 * tf.reduce_mean(made * tf.reduce_mean(y))
        weights = self.generator.trainable_variables
        self.second.apply_gradients(zip(tape.gradient(second, weights), weights, strict=True))
        self.own.update_state(loss)
        return {"own": self.own.result()}


@build
def gan(**options: Any) -> Any:
    return compiled(Gan(), **options)


def half_precision(**options: Any) -> Any:
    """In mixed_float16, with a dynamic loss scale at which the first steps overflow."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = sequential(keras.layers.BatchNormalization())
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=options.pop("initial_scale", 2.0**10), dynamic_growth_steps=3
    )
    return compiled(model, optimizer, metrics=["mae"], **options)


BUILDS["half_precision"] = half_precision
