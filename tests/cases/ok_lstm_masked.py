# expect: healthy
"""An LSTM over padded sequences with Masking and gradient clipping by value."""

import keras
import numpy as np

keras.utils.set_random_seed(410)
rng = np.random.default_rng(410)
x = rng.normal(size=(64, 12, 3)).astype("float32")
for row, length in enumerate(rng.integers(0, 12, 64)):
    x[row, length:] = 0.0
y = x.sum(axis=(1, 2), keepdims=False)[:, None]

model = keras.Sequential(
    [keras.Input((12, 3)), keras.layers.Masking(0.0), keras.layers.LSTM(8), keras.layers.Dense(1)]
)
model.compile(optimizer=keras.optimizers.RMSprop(1e-3, clipvalue=0.5), loss="huber")
model.fit(x, y, batch_size=16, epochs=3, validation_split=0.25, verbose=2)
