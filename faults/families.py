"""Eight kinds of model, tiny and real, each with data, a loss, an optimizer, and places for faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from faults.taps import Tap

STEPS = 6  # of one run
ROWS = 8  # of a batch

layers = keras.layers


@dataclass(eq=False)
class Family:
    """A training that has been built.

    Args:
        model: The model, not compiled; a `Gan` makes its own step.
        optimizers: Its optimizers, built.
        x: Inputs of all batches: an array, or a tuple of them, the one with floats first.
        y: Targets likewise.
        loss: What `compile` is given.
    """

    model: Any
    optimizers: list[Any]
    x: Any
    y: Any
    loss: Any = None
    seen: Any = field(default_factory=lambda: keras.metrics.Mean(name="seen"))

    @property
    def taps(self) -> list[Tap]:
        """Where activations and gradients can be replaced."""
        return [layer for layer in self.model._flatten_layers() if isinstance(layer, Tap)]

    @property
    def optimizer(self) -> Any:
        """The first optimizer."""
        return self.optimizers[0]

    def compile(self, *, jit: bool) -> None:
        """Compiles the model, for `fit` or for its `compute_loss`."""
        self.model.compile(self.optimizer, self.loss, jit_compile=jit, auto_scale_loss=False)

    def step(self, apply: Callable[..., Any] | None = None, optimizer: Any = None) -> Callable[[Any, Any], Any]:
        """One step as people write it; gives a function of a batch that gives the loss.

        Args:
            apply: What applies gradients: it is given them, the weights, and the loss. Defaults to the optimizer's.
            optimizer: An optimizer around the family's own.
        """
        model, optimizer = self.model, optimizer if optimizer is not None else self.optimizer
        if isinstance(model, Gan):
            return lambda x, y: model.train_step((x, y))["loss"]

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True), training=True)
                scaled = optimizer.scale_loss(loss)
            weights = model.trainable_variables
            gradients = tape.gradient(scaled, weights)
            if apply is None:
                optimizer.apply(gradients, weights)
            else:
                apply(gradients, weights, loss)
            self.seen.update_state(loss)
            return loss

        return step

    def loss_of(self, x: Any, y: Any) -> Any:
        """The loss of the model as it is, without noise."""
        if isinstance(self.model, Gan):
            return self.model.loss_of(x, y)
        return self.model.compute_loss(x=x, y=y, y_pred=self.model(x, training=False), training=False)

    def variables(self) -> list[Any]:
        """All variables of the training: weights, layer state, seeds, metrics, slots, counters, loss scales."""
        model = self.model
        found = [*model.variables, *self.seen.variables]
        for owner in (*self.optimizers, *model.metrics):
            found += owner.variables
        return list({id(v): v for v in found}.values())

    def scales(self) -> set[int]:
        """The ids of the variables that a loss scale optimizer changes when it skips a step."""
        found: set[int] = set()
        for optimizer in self.optimizers:
            inner = getattr(optimizer, "inner_optimizer", None)
            if inner is not None:
                found |= {id(v) for v in optimizer.variables} - {id(v) for v in inner.variables}
        return found

    def slots(self) -> list[Any]:
        """Slots that hold floats, one value or more for each weight."""
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        return [v for v in inner.variables if "float" in v.dtype and len(v.shape) > 0]

    def moving(self) -> list[Any]:
        """Moving means and variances of batch normalization."""
        return [v for v in self.model.non_trainable_variables if v.path.split("/")[-1].startswith("moving_")]

    def batch(self, number: int) -> tuple[Any, Any]:
        """One batch, as copies."""
        rows = slice(number * ROWS, (number + 1) * ROWS)
        return tuple(tf.nest.map_structure(lambda array: array[rows].copy(), part) for part in (self.x, self.y))


def _numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(STEPS * ROWS, *shape)).astype("float32")


def _classes(x: np.ndarray, count: int = 3) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    return np.eye(count, dtype="float32")[np.argmax(flat[:, :count], axis=1)]


def _logits(count: int) -> Any:
    return layers.Dense(count, dtype="float32")


def _family(model: Any, optimizer: Any, x: Any, y: Any, loss: Any) -> Family:
    optimizer = _scaled(optimizer)
    optimizer.build(model.trainable_variables)
    return Family(model, [optimizer], x, y, loss)


# What a peer puts around, or in the place of, each optimizer.
_around: Callable[[Any], Any] = lambda optimizer: optimizer  # noqa: E731


def _scaled(optimizer: Any) -> Any:
    optimizer = _around(optimizer)
    if keras.config.dtype_policy().compute_dtype != "float16":
        return optimizer
    # A scale at which no healthy step overflows: an overflow is then a fault's.
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=128.0)


def dense() -> Family:
    """Two dense layers with dropout; Adam."""
    inputs = keras.Input((6,))
    hidden = Tap()(layers.Dense(8, activation="relu")(inputs))
    model = keras.Model(inputs, _logits(3)(layers.Dropout(0.2)(hidden)))
    x = _numbers(6)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    return _family(model, keras.optimizers.Adam(0.01), x, _classes(x), loss)


def conv() -> Family:
    """Convolution and batch normalization; SGD with momentum."""
    inputs = keras.Input((6, 6, 2))
    hidden = layers.BatchNormalization()(layers.Conv2D(4, 3, use_bias=False)(inputs))
    hidden = layers.GlobalAveragePooling2D()(layers.ReLU()(Tap()(hidden)))
    x = _numbers(6, 6, 2)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model = keras.Model(inputs, _logits(3)(hidden))
    return _family(model, keras.optimizers.SGD(0.05, momentum=0.9), x, _classes(x[:, 0, 0:2]), loss)


def lstm() -> Family:
    """A recurrent network with dropout; RMSprop."""
    inputs = keras.Input((4, 3))
    hidden = Tap()(layers.LSTM(5, dropout=0.1)(inputs))
    x = _numbers(4, 3)
    model = keras.Model(inputs, _logits(1)(hidden))
    return _family(model, keras.optimizers.RMSprop(0.01), x, x[:, :, 0].sum(1, keepdims=True), "mse")


def transformer() -> Family:
    """One block of attention; AdamW with decay and a moving average of the weights."""
    inputs = keras.Input((4, 8))
    hidden = inputs + layers.MultiHeadAttention(2, 4, dropout=0.1)(inputs, inputs)
    hidden = Tap()(layers.LayerNormalization()(hidden))
    hidden = hidden + layers.Dense(8)(layers.Dense(12, activation="gelu")(hidden))
    hidden = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(hidden))
    x = _numbers(4, 8)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model = keras.Model(inputs, _logits(3)(hidden))
    return _family(model, keras.optimizers.AdamW(0.01, use_ema=True), x, _classes(x), loss)


class Sampling(keras.layers.Layer):
    """Draws from the latent normal distribution, and adds its divergence to the loss."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(7)

    def call(self, inputs: Any) -> Any:
        """Draws."""
        mean, log_variance = inputs
        terms = 1.0 + log_variance - keras.ops.square(mean) - keras.ops.exp(log_variance)
        self.add_loss(-0.05 * keras.ops.mean(keras.ops.cast(terms, "float32")))
        noise = keras.random.normal(keras.ops.shape(mean), dtype=mean.dtype, seed=self.seed)
        return mean + keras.ops.exp(0.5 * log_variance) * noise


def vae() -> Family:
    """A variational autoencoder; Adam."""
    inputs = keras.Input((8,))
    hidden = layers.Dense(6, activation="tanh")(inputs)
    latent = Sampling()([layers.Dense(2)(hidden), layers.Dense(2)(hidden)])
    hidden = Tap()(layers.Dense(6, activation="tanh")(latent))
    x = _numbers(8)
    return _family(keras.Model(inputs, _logits(8)(hidden)), keras.optimizers.Adam(0.01), x, x.copy(), "mse")


class Gan(keras.Model):
    """Two networks with an optimizer each; its targets are the labels of what is real."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential(
            [keras.Input((3,)), layers.Dense(6), layers.BatchNormalization(), layers.ReLU(), Tap(), _logits(4)]
        )
        self.critic = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="leaky_relu"), Tap(), _logits(1)])
        self.seed = keras.random.SeedGenerator(3)
        self.seen = keras.metrics.Mean(name="loss")
        self.loss_function = keras.losses.BinaryCrossentropy(from_logits=True)
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Judges what it is given."""
        return self.critic(inputs, training=training)

    def train_step(self, data: Any) -> Any:
        """Trains the critic, then the generator."""
        real, labels = data
        noise = keras.random.normal((ROWS, 3), seed=self.seed)
        with tf.GradientTape() as tape:
            fake = self.generator(noise, training=True)
            loss = self._critic_loss(real, labels, fake, training=True)
            scaled = self.optimizers[0].scale_loss(loss)
        weights = self.critic.trainable_variables
        self.optimizers[0].apply(tape.gradient(scaled, weights), weights)
        with tf.GradientTape() as tape:
            scores = self.critic(self.generator(noise, training=True), training=True)
            other = self.loss_function(tf.ones_like(scores), scores)
            scaled = self.optimizers[1].scale_loss(other)
        weights = self.generator.trainable_variables
        self.optimizers[1].apply(tape.gradient(scaled, weights), weights)
        self.seen.update_state(loss + other)
        return {"loss": loss + other}

    def loss_of(self, real: Any, labels: Any) -> Any:
        """The critic's loss against the generator's answers to noise that is always the same."""
        noise = keras.random.normal((ROWS, 3), seed=5)
        return self._critic_loss(real, labels, self.generator(noise, training=False), training=False)

    def _critic_loss(self, real: Any, labels: Any, fake: Any, *, training: bool) -> Any:
        of_real, of_fake = self.critic(real, training=training), self.critic(fake, training=training)
        return self.loss_function(labels, of_real) + self.loss_function(tf.zeros_like(of_fake), of_fake)


def gan() -> Family:
    """A generator with batch normalization and a critic; Adam for each."""
    model = Gan()
    model.optimizers = [_scaled(keras.optimizers.Adam(0.01, beta_1=0.5)) for _ in range(2)]
    model.optimizers[0].build(model.critic.trainable_variables)
    model.optimizers[1].build(model.generator.trainable_variables)
    x = _numbers(4)
    return Family(model, list(model.optimizers), x, np.full((len(x), 1), 0.9, "float32"))


def embedding() -> Family:
    """An embedding with sparse gradients beside numbers, and batch normalization; Nadam."""
    numbers, words = keras.Input((3,)), keras.Input((5,), dtype="int32")
    hidden = layers.GlobalAveragePooling1D()(layers.Embedding(20, 4)(words))
    hidden = layers.BatchNormalization()(layers.Concatenate()([numbers, hidden]))
    hidden = layers.Dense(6, activation="relu")(Tap()(hidden))
    x = _numbers(3), np.random.default_rng(1).integers(0, 20, (STEPS * ROWS, 5)).astype("int32")
    model = keras.Model((numbers, words), _logits(1)(hidden))
    y = (x[0][:, :1] + 0.1 * x[1][:, :1] > 1.0).astype("float32")
    return _family(model, keras.optimizers.Nadam(0.01), x, y, keras.losses.BinaryCrossentropy(from_logits=True))


def multi_output() -> Family:
    """Two outputs with a loss each behind one body; Adam that accumulates the gradients of two steps."""
    inputs = keras.Input((6,))
    hidden = layers.BatchNormalization()(Tap()(layers.Dense(8, activation="tanh")(inputs)))
    model = keras.Model(inputs, (_logits(1)(hidden), _logits(3)(hidden)))
    x = _numbers(6)
    losses = [keras.losses.Huber(), keras.losses.CategoricalCrossentropy(from_logits=True)]
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    return _family(model, optimizer, x, (x.sum(1, keepdims=True), _classes(x)), losses)


FAMILIES: dict[str, Callable[[], Family]] = {
    "dense": dense,
    "conv + BN": conv,
    "LSTM": lstm,
    "Transformer": transformer,
    "VAE": vae,
    "GAN": gan,
    "embedding": embedding,
    "multi-output": multi_output,
}


def build(name: str, dtype: str, around: Callable[[Any], Any] = _around) -> Family:
    """Builds a family, always with the same weights.

    Args:
        name: A key of `FAMILIES`.
        dtype: `float32` or `mixed_float16`.
        around: Makes another optimizer of each.
    """
    global _around
    plain, _around = _around, around
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        keras.utils.set_random_seed(11)
        return FAMILIES[name]()
    finally:
        keras.config.set_dtype_policy(before)
        _around = plain
