# expect: step=2 born_in=data op=null cause=data_nan_inf rows=7 dataset_rows=167 columns=1
"""Keras gradient accumulation over 4 batches; the NaN comes in the 11th batch, after two updates."""

import keras
import numpy as np

keras.utils.set_random_seed(15)
rng = np.random.default_rng(15)
x = rng.normal(size=(256, 3)).astype("float32")
y = x @ np.array([[1.0], [-2.0], [0.5]], "float32")
x[167, 1] = np.nan

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.AdamW(1e-2, gradient_accumulation_steps=4), loss="mse")
model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=2)  # NG701 here
