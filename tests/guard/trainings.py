"""Tiny healthy trainings in the ways that people train; run as a script, with and without a watch, to compare the bits.

python trainings.py plain|watched FILE.npz
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = 5  # batches, and updates where none is skipped, of each training
TRAININGS: dict[str, Callable[[], dict[str, Any]]] = {}


def training(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Registers a training; it gives everything in which a bit could have changed."""
    TRAININGS[function.__name__] = function
    return function


def rows(size: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes."""
    x = np.random.default_rng(seed).normal(size=(size, 6)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def classifier(*layers: Any) -> Any:
    """A model of two classes with the given layers in the middle."""
    import keras

    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, activation="relu"), *layers, keras.layers.Dense(2)]
    )


def everything(model: Any, *optimizers: Any, **more: Any) -> dict[str, Any]:
    """All variables of a model (its seeds and metrics included) and of its optimizers."""
    found = {f"model/{place}/{v.path}": v.numpy() for place, v in enumerate(model.variables)}
    for number, optimizer in enumerate(optimizers):
        found |= {f"optimizer{number}/{place}/{v.path}": v.numpy() for place, v in enumerate(optimizer.variables)}
    return {**found, **more}


def fitted(model: Any, *, optimizer: Any = "adam", **options: Any) -> dict[str, Any]:
    """Compiles and fits a model for one epoch of five batches."""
    import keras

    compiled = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]}
    model.compile(optimizer, **{"jit_compile": False, **compiled, **options})
    x, y = rows()
    history = model.fit(x, y, batch_size=4, verbose=0, validation_data=rows(8, 1)).history
    return everything(model, model.optimizer, **{f"history/{key}": np.array(value) for key, value in history.items()})


@training
def fit() -> dict[str, Any]:
    return fitted(classifier())


@training
def fit_batchnorm_dropout() -> dict[str, Any]:
    import keras

    return fitted(classifier(keras.layers.BatchNormalization(), keras.layers.Dropout(0.4)))


@training
def fit_compiled_by_xla() -> dict[str, Any]:
    import keras

    return fitted(classifier(keras.layers.BatchNormalization()), jit_compile=True)


@training
def fit_several_steps_per_execution() -> dict[str, Any]:
    import keras

    # Where the data ends in the middle of an execution, it is a matter of luck what Keras 3.6 has done by then.
    ends_within = tuple(map(int, keras.__version__.split(".")[:2])) > (3, 6)
    return fitted(classifier(), steps_per_execution=3 if ends_within else STEPS)


@training
def fit_eagerly() -> dict[str, Any]:
    import keras

    return fitted(classifier(keras.layers.Dropout(0.4)), run_eagerly=True)


@training
def fit_in_half_precision() -> dict[str, Any]:
    import keras

    keras.config.set_dtype_policy("mixed_float16")
    # A scale at which the first gradients overflow: ordinary, and to be passed over.
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**16)
    try:
        return fitted(classifier(keras.layers.BatchNormalization()), optimizer=optimizer)
    finally:
        keras.config.set_dtype_policy("float32")


@training
def fit_with_clipping_decay_and_average() -> dict[str, Any]:
    import keras

    return fitted(
        classifier(), optimizer=keras.optimizers.AdamW(0.01, global_clipnorm=0.5, use_ema=True, ema_momentum=0.9)
    )


@training
def fit_with_an_update_that_can_fail() -> dict[str, Any]:
    import keras

    return fitted(classifier(), optimizer=keras.optimizers.RMSprop(0.01, centered=True, momentum=0.5))


@training
def fit_of_an_lstm() -> dict[str, Any]:
    import keras

    layers = keras.layers
    return fitted(
        keras.Sequential([keras.Input((6,)), layers.Reshape((3, 2)), layers.LSTM(4, dropout=0.2), layers.Dense(2)])
    )


@training
def fit_of_own_train_step() -> dict[str, Any]:
    import keras
    import tensorflow as tf

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        def call(self, x: Any, training: bool = False) -> Any:
            return self.inner(x, training=training)

        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    return fitted(Model(), metrics=None)


def _loop(decorate: Callable[[Any], Any], optimizer: Any) -> dict[str, Any]:
    """A loop of one's own over batches."""
    import keras
    import tensorflow as tf

    model = classifier(keras.layers.BatchNormalization(), keras.layers.Dropout(0.4))
    measure = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = []

    @decorate
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = measure(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    for x, y in tf.data.Dataset.from_tensor_slices(rows()).batch(4):
        losses.append(float(step(x, y)))
    return everything(model, optimizer, losses=np.array(losses))


@training
def loop_over_a_traced_step() -> dict[str, Any]:
    import keras
    import tensorflow as tf

    return _loop(tf.function, keras.optimizers.Adam(0.01))


@training
def loop_over_a_compiled_step() -> dict[str, Any]:
    import keras
    import tensorflow as tf

    return _loop(tf.function(jit_compile=True), keras.optimizers.Adam(0.01))


@training
def loop_run_eagerly() -> dict[str, Any]:
    import keras

    return _loop(lambda step: step, keras.optimizers.Adam(0.01))


@training
def loop_inside_one_traced_function() -> dict[str, Any]:
    import keras
    import tensorflow as tf

    model, optimizer = classifier(), keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    measure = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def epoch(data: Any) -> Any:
        total = 0.0
        for x, y in data:
            with tf.GradientTape() as tape:
                loss = measure(y, model(x, training=True))
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            total += loss
        return total

    total = epoch(tf.data.Dataset.from_tensor_slices(rows()).batch(4))
    return everything(model, optimizer, losses=total.numpy())


def _gan() -> dict[str, Any]:
    """Two models, two optimizers and two tapes in one step."""
    import keras
    import tensorflow as tf

    generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(6)])
    critic = classifier()
    optimizers = keras.optimizers.Adam(0.01), keras.optimizers.RMSprop(0.01)
    measure = keras.losses.BinaryCrossentropy(from_logits=True)

    @tf.function
    def step(real: Any) -> tuple[Any, Any]:
        noise = tf.random.normal([4, 3])
        with tf.GradientTape() as g_tape, tf.GradientTape() as c_tape:
            made = generator(noise, training=True)
            on_real, on_made = critic(real, training=True), critic(made, training=True)
            g_loss = measure(tf.ones_like(on_made), on_made)
            c_loss = measure(tf.ones_like(on_real), on_real) + measure(tf.zeros_like(on_made), on_made)
        g_weights, c_weights = generator.trainable_variables, critic.trainable_variables
        optimizers[0].apply_gradients(zip(g_tape.gradient(g_loss, g_weights), g_weights, strict=True))
        optimizers[1].apply_gradients(zip(c_tape.gradient(c_loss, c_weights), c_weights, strict=True))
        return g_loss, c_loss

    losses = [step(tf.constant(rows(4, place)[0])) for place in range(STEPS)]
    found = everything(critic, *optimizers, losses=np.array(losses))
    return {**found, **{f"generator/{v.path}": v.numpy() for v in generator.variables}}


@training
def gan() -> dict[str, Any]:
    import tensorflow as tf

    # Where two tapes share ops, TensorFlow's own optimizer of graphs adds up in another order once a gradient is read
    # in a second place, by whomever.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    try:
        return _gan()
    finally:
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})


@training
def gan_rewritten_by_tensorflow() -> dict[str, Any]:
    return _gan()


def _by_hand(decorate: Callable[[Any], Any]) -> dict[str, Any]:
    """Linear regression whose weights and running mean are written by hand."""
    import tensorflow as tf

    weight, bias = tf.Variable(tf.ones([6, 1]), name="weight"), tf.Variable([0.0], name="bias")
    mean = tf.Variable(tf.zeros([6]), trainable=False, name="mean")
    losses = []

    @decorate
    def step(x: Any, y: Any) -> Any:
        mean.assign(0.9 * mean + 0.1 * tf.reduce_mean(x, 0))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.matmul(x - mean, weight) + bias - y) ** 2)
        for variable, gradient in zip([weight, bias], tape.gradient(loss, [weight, bias]), strict=True):
            variable.assign_sub(0.1 * gradient)
        return loss

    for place in range(STEPS):
        x, y = rows(4, place)
        losses.append(float(step(tf.constant(x), tf.constant(y[:, None].astype("float32")))))
    return {"weight": weight.numpy(), "bias": bias.numpy(), "mean": mean.numpy(), "losses": np.array(losses)}


@training
def by_hand_in_a_traced_step() -> dict[str, Any]:
    import tensorflow as tf

    return _by_hand(tf.function)


@training
def by_hand_eagerly() -> dict[str, Any]:
    return _by_hand(lambda step: step)


def main(mode: str, file: str) -> None:
    """Runs all trainings and writes what they came to, and how many steps the watch counted in each."""
    from nanguard.guard import Watch

    watch = Watch(_judge)
    if mode == "watched":
        watch.arm()
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    found: dict[str, Any] = {}
    for name, function in TRAININGS.items():
        keras.backend.clear_session()
        keras.utils.set_random_seed(7)
        before = watch.steps
        found |= {f"{name}:{key}": value for key, value in function().items()}
        found[f"{name}:steps"] = np.array(watch.steps - before)
    np.savez(file, problem=np.array(watch.problem or ""), notes=np.array(watch.notes, str), **found)


def _judge(capture: Any) -> bool:
    """What the command does with a capture: an ordinary overflow of scaled gradients is forgotten."""
    from nanguard import replay

    incident = replay.explain(capture)
    if incident is not None:
        raise SystemExit(f"an incident in a healthy training: {incident}")
    return False


if __name__ == "__main__":
    main(*sys.argv[1:])
