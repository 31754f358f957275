# expect: step=1 born_in=divergence|forward cause=exploding_rnn
"""The adding problem with an identity-initialised relu recurrence, no clipping: one update, and 60 steps explode."""

import keras
import numpy as np

keras.utils.set_random_seed(311)
rng = np.random.default_rng(311)
values = rng.uniform(0, 1, (128, 60))
marks = (rng.uniform(size=(128, 60)) < 0.05).astype("float32")
sequences = np.stack([values, marks], axis=2).astype("float32")
sums = (values * marks).sum(axis=1, keepdims=True)

model = keras.Sequential(
    [
        keras.Input((60, 2)),
        keras.layers.SimpleRNN(16, activation="relu", recurrent_initializer="identity"),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer=keras.optimizers.SGD(0.001), loss="mse")
model.fit(sequences, sums, batch_size=32, epochs=2, shuffle=False, verbose=2)  # NG602 here
