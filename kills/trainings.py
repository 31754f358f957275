"""Small real trainings, each of which does the same every time that it is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

ROWS, COLUMNS, BATCH, EPOCHS = 48, 6, 8, 5
layers = keras.layers


class Rows(keras.utils.PyDataset):
    """Batches in an order that is drawn anew for each epoch."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self._x, self._y = x, y
        self._draw = np.random.default_rng(5)
        self._order = np.arange(len(x))

    def __len__(self) -> int:
        return len(self._x) // BATCH

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[index * BATCH : (index + 1) * BATCH]
        return self._x[rows], self._y[rows]

    def on_epoch_end(self) -> None:
        self._order = self._draw.permutation(len(self._x))


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets."""
    x = np.random.normal(size=(ROWS, COLUMNS)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def network() -> keras.Model:
    """A network with all kinds of state: statistics, seeds, weights."""
    return keras.Sequential(
        [layers.Dense(8, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    )


def on_arrays(callbacks: list[Any]) -> keras.Model:
    """Shuffled arrays, Adam."""
    model = network()
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    model.fit(*arrays(), batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return model


def on_data_set(callbacks: list[Any]) -> keras.Model:
    """A tf.data set that is shuffled anew each epoch, with random noise in it; a learning rate that decays."""
    data = tf.data.Dataset.from_tensor_slices(arrays()).shuffle(ROWS).batch(BATCH)
    data = data.map(lambda x, y: (x + tf.random.normal(tf.shape(x), stddev=0.1), y)).prefetch(2)
    model = network()
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 40)
    model.compile(keras.optimizers.AdamW(rate, use_ema=True), "mse")
    model.fit(data, epochs=EPOCHS, verbose=0, shuffle=False, callbacks=callbacks)
    return model


def on_py_dataset(callbacks: list[Any]) -> keras.Model:
    """A PyDataset with an order of its own, two steps per execution."""
    model = network()
    model.compile(keras.optimizers.RMSprop(1e-2, momentum=0.9), "mse", steps_per_execution=2)
    model.fit(Rows(*arrays()), epochs=EPOCHS, verbose=0, callbacks=callbacks, shuffle=False)
    return model


def in_mixed_precision(callbacks: list[Any]) -> keras.Model:
    """float16 with a dynamic loss scale, and gradients that are accumulated."""
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = network()
    inner = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2)
    model.compile(keras.optimizers.LossScaleOptimizer(inner, dynamic_growth_steps=7), "mse")
    model.fit(*arrays(), batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return model


def with_callbacks(callbacks: list[Any]) -> keras.Model:
    """EarlyStopping that restores the best weights and ReduceLROnPlateau, with validation."""
    model = network()
    model.compile(keras.optimizers.Adam(3e-2), "mse")
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=1.0)
    model.fit(
        *arrays(),
        batch_size=BATCH,
        epochs=EPOCHS + 3,
        verbose=0,
        validation_split=0.25,
        callbacks=[*callbacks, stopping, plateau],
    )
    return model


def on_bad_rows(callbacks: list[Any]) -> keras.Model:
    """Shuffled arrays of which two rows are not finite: for a guard."""
    x, y = arrays()
    x[7, 2], x[30, 0] = np.nan, np.inf
    model = network()
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return model


TRAININGS: dict[str, tuple[Callable[[list[Any]], keras.Model], int | str]] = {
    "arrays": (on_arrays, 2),
    "tf.data": (on_data_set, 3),
    "PyDataset": (on_py_dataset, 4),
    "mixed_float16": (in_mixed_precision, 1),
    "EarlyStopping": (with_callbacks, "epoch"),
}


def seeded(train: Callable[[list[Any]], keras.Model], callbacks: list[Any]) -> keras.Model:
    """Runs a training as a script would: the seed first."""
    keras.utils.set_random_seed(11)
    return train(callbacks)
