"""Trainings on several replicas; run as a script, in one process or in two.

python replicas.py mirrored|workers FOLDER NUMBER
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GLOBAL = 8  # rows of a batch, all replicas together


def batches(number: int = 4, seed: int = 0) -> list[tuple[Any, Any]]:
    """Healthy batches."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        x = random.normal(size=(GLOBAL, 6)).astype("float32")
        found.append((x, np.tanh(x[:, :1])))
    return found


def with_bad(good: list[Any]) -> list[Any]:
    """With a NaN for the second replica, for the first, and for both."""
    made = []
    for rows in ((7,), (0,), (0, 7)):
        ((x, y),) = batches(1, 9)
        x[list(rows), 2] = np.nan
        made.append((x, y))
    return [made[0], *good[:2], made[1], *good[2:], made[2]]


def dataset(parts: list[Any]) -> Any:
    """The batches as a data set that a strategy can shard by its elements."""
    import tensorflow as tf

    x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    made = tf.data.Dataset.from_tensor_slices((x, y)).batch(GLOBAL, drop_remainder=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return made.with_options(options)


def new_model() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3), keras.layers.Dense(1),
        ]
    )  # fmt: skip


def everything(model: Any, optimizer: Any) -> dict[str, Any]:
    """The values on each replica of this process."""
    found = {}
    for kind, variables in (("model", model.variables), ("optimizer", optimizer.variables)):
        for place, variable in enumerate(variables):
            raw = getattr(variable, "_value", variable)
            for replica, component in enumerate(getattr(raw, "_values", (raw,))):
                found[f"{kind}/{place}/{replica}"] = component.numpy()
    return found


def fit(**options: Any) -> Callable[[Any, list[Any], str], dict[str, Any]]:
    """Keras's `fit`."""

    def run(strategy: Any, parts: list[Any], kind: str) -> dict[str, Any]:
        import keras

        import nanguard as ng

        given = {**options}
        # On two devices of one CPU plain Keras cannot make several steps in one execution: TensorFlow ends it.
        steps = given.pop("steps_per_execution", 1)
        steps = 1 if kind == "plain" else steps
        with strategy.scope():
            model = new_model()
            model.compile(
                keras.optimizers.Adam(0.01), "mse", metrics=["mae"], jit_compile=False, steps_per_execution=steps
            )
        guard = ng.Guard(quarantine=None, verbose=False, num_explained=0, **given)
        callbacks = [] if kind == "plain" else [guard]
        history = model.fit(dataset(parts), verbose=0, callbacks=callbacks, shuffle=False).history
        found = {f"history/{key}": np.array(value) for key, value in history.items() if "nanguard" not in key}
        return {**everything(model, model.optimizer), **found, "skipped": guard.num_skipped}

    return run


def went_back(strategy: Any, parts: list[Any], kind: str) -> dict[str, Any]:
    """`fit` whose weights are broken before the fifth batch of the bad run, and which goes back to before the first."""
    import keras

    import nanguard as ng

    def break_weights(place: int, logs: Any) -> None:
        if kind == "bad" and place == 4:
            for weight in model.trainable_variables:
                weight.assign(weight * 1e4)

    with strategy.scope():
        model = new_model()
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    guard = ng.Guard(on_nonfinite="rollback", quarantine=None, verbose=False, num_explained=0)
    breaks = keras.callbacks.LambdaCallback(on_train_batch_begin=break_weights)
    model.fit(dataset(parts), verbose=0, callbacks=[] if kind == "plain" else [guard, breaks], shuffle=False)
    found = {**everything(model, model.optimizer), "skipped": guard.num_skipped}
    if kind != "plain":
        found["actions"] = np.array([event.action for event in guard.events])
    return found


def kept(strategy: Any) -> dict[str, Any]:
    """What the guard finds out and keeps: of a full batch, and of a last one whose parts differ in size."""

    import nanguard as ng
    from nanguard import capture_file, replay
    from nanguard.guard.quarantine import Quarantine

    x, y = (np.concatenate(column) for column in zip(*batches(4), strict=True))
    x, y = x[:-3], y[:-3]
    x[[13, 27], 2] = np.nan  # row 5 of the second batch, on replica 1; row 3 of the last, of which that has two
    traces = []

    def loss(y_true: Any, y_pred: Any) -> Any:
        traces.append(1)
        return (y_true - y_pred) ** 2

    with strategy.scope():
        model = new_model()
        model.compile("adam", loss, jit_compile=False)
    with tempfile.TemporaryDirectory() as folder:
        guard = ng.Guard(quarantine=folder, verbose=False)
        model.fit(x, y, batch_size=GLOBAL, shuffle=False, verbose=0, callbacks=[guard])
        found: dict[str, Any] = {}
        quarantine = Quarantine(folder)
        for place, event in enumerate(guard.events):
            again = replay.explain(capture_file.load(event.capture)[0])
            found[f"{place}/rows"] = np.array(event.rows)
            found[f"{place}/rows_of_data"] = np.array(event.incident.dataset_rows)
            found[f"{place}/rows_again"] = np.array(again.rows)
            found[f"{place}/causes"] = np.array([event.incident.cause, again.cause])
            found[f"{place}/file"] = np.array(event.incident.where.file)
            batch, manifest = quarantine.load(event.quarantined)
            found[f"{place}/manifest_rows"] = np.array(manifest["rows"])
            found[f"{place}/x"], found[f"{place}/y"] = (tensor.numpy() for tensor in batch)
    return {**found, "x": x, "y": y, "num_traces": len(traces)}


def huge(strategy: Any) -> dict[str, Any]:
    """Steps whose numbers are finite and whose sums are not: of gradients, and of an optimizer's slots."""
    import keras

    import nanguard as ng

    found = {}
    for kind in ("guarded", "plain"):
        for name, size in (("gradients", 1e25), ("slots", 1.0)):
            with strategy.scope():
                keras.utils.set_random_seed(1)
                model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
                made = keras.optimizers.SGD(1e-24) if name == "gradients" else keras.optimizers.Adam()
                made.build(model.trainable_variables)
                model.compile(made, lambda y, y_pred: y * y_pred, jit_compile=False)
                if name == "slots":
                    made.variables[-1].assign(keras.ops.full_like(made.variables[-1], 1e38))
            guard = ng.Guard(quarantine=None, verbose=False, num_explained=0)
            x, y = np.ones((16, 6), "float32"), np.full((16, 4), size, "float32")
            model.fit(x, y, batch_size=GLOBAL, verbose=0, callbacks=[guard] if kind == "guarded" else [])
            for key, value in everything(model, made).items():
                found[f"{name}/{kind}/{key}"] = value
            found[f"{name}/{kind}/skipped"] = np.array(guard.num_skipped)
    return found


def loop(style: str) -> Callable[[Any, list[Any], str], dict[str, Any]]:
    """A loop as TensorFlow's guide writes it."""

    def run(strategy: Any, parts: list[Any], kind: str) -> dict[str, Any]:
        import keras
        import tensorflow as tf

        import nanguard as ng

        guard = None
        with strategy.scope():
            model = new_model()
            optimizer = inner = keras.optimizers.Adam(0.01)
            if style == "scaled":
                optimizer = inner = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
            optimizer.build(model.trainable_variables)
            if kind != "plain" and style == "step":
                guard = ng.Guard(model, optimizer, quarantine=None, verbose=False, num_explained=0)
            elif kind != "plain":
                optimizer = ng.GuardedOptimizer(inner, max_in_row=1000, verbose=False)
                optimizer.build(model.trainable_variables)

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum((model(x, training=True) - y) ** 2) / GLOBAL
                scaled = optimizer.scale_loss(loss)
            grads = tape.gradient(scaled, model.trainable_variables)
            optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
            return loss

        inside = step if guard is None else guard.step(step)

        @tf.function
        def train(x: Any, y: Any) -> Any:
            losses = strategy.run(inside, args=(x, y))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

        for x, y in strategy.experimental_distribute_dataset(dataset(parts)):
            train(x, y)
        skipped = 0
        if guard is not None:
            skipped = int(guard._updater.ledger.skipped)
        elif kind != "plain":
            skipped = int(optimizer.skipped)
        return {**everything(model, inner), "skipped": skipped}

    return run


def main(where: str, folder: str, names: str, number: str) -> None:
    """Runs the trainings of these names, joined by commas."""
    import tensorflow as tf

    if where == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        trainings = {
            "fit": fit(), "several": fit(steps_per_execution=3), "went_back": went_back,
            **{style: loop(style) for style in ("optimizer", "step", "scaled")},
        }  # fmt: skip
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        trainings = {"optimizer": loop("optimizer")}
    chosen = names.split(",")
    assert strategy.num_replicas_in_sync == 2
    found = {}
    for name, once in (("kept", kept), ("huge", huge)):
        if name in chosen:
            found.update({f"{name}:{key}": value for key, value in once(strategy).items()})
    for name in (name for name in trainings if name in chosen):
        training = trainings[name]
        for kind in ("bad", "good", "plain"):
            parts = with_bad(batches()) if kind == "bad" else batches()
            for key, value in training(strategy, parts, kind).items():
                found[f"{name}/{kind}:{key}"] = value
    np.savez(Path(folder, f"{number}.npz"), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
