# expect: healthy
"""The validation rows hold a NaN: val_loss is NaN, the training itself is fine."""

import keras
import numpy as np

keras.utils.set_random_seed(418)
rng = np.random.default_rng(418)
x = rng.normal(size=(128, 3)).astype("float32")
y = x.sum(axis=1)
x_val, y_val = x[96:].copy(), y[96:]
x_val[4, 2] = np.nan

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
model.fit(x[:96], y[:96], validation_data=(x_val, y_val), batch_size=32, epochs=3, verbose=2)
