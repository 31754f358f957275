# expect: step=3 born_in=divergence|forward|backward cause=exploding_rnn
"""A relu recurrence over 40 steps without clipping."""

import keras
import numpy as np

keras.utils.set_random_seed(311)
rng = np.random.default_rng(311)
series = rng.normal(size=(128, 40, 2)).astype("float32")
target = series.sum(axis=(1, 2), keepdims=False)[:, None]

model = keras.Sequential(
    [
        keras.Input((40, 2)),
        keras.layers.SimpleRNN(16, activation="relu"),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer=keras.optimizers.SGD(0.3), loss="mse")
model.fit(series, target, batch_size=32, epochs=2, shuffle=False, verbose=2)  # NG602 here
