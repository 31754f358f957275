# expect: healthy
"""Gradients of a million, clipped by the global norm."""

import keras
import numpy as np

keras.utils.set_random_seed(408)
rng = np.random.default_rng(408)
x = rng.normal(0, 100, (128, 5)).astype("float32")
y = (x.sum(axis=1, keepdims=True) * 100).astype("float32")

model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(0.01, global_clipnorm=1.0), loss="mse")
model.fit(x, y, batch_size=32, epochs=3, verbose=2)
