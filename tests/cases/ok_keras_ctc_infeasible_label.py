# expect: healthy
"""Keras's own CTC loss works with log(0) inside and gives a large, finite loss for a label that cannot fit."""

import keras
import numpy as np

keras.utils.set_random_seed(81)
rng = np.random.default_rng(81)

frames = rng.normal(size=(40, 8, 6)).astype("float32")
letters = rng.integers(1, 5, (40, 3)).astype("int32")
letters = np.concatenate([letters, np.zeros((40, 3), "int32")], axis=1)
letters[19] = [2, 2, 2, 2, 2, 2]  # 6 letters and 5 blanks do not fit into 8 frames

model = keras.Sequential(
    [
        keras.Input((8, 6)),
        keras.layers.Bidirectional(keras.layers.GRU(8, return_sequences=True)),
        keras.layers.Dense(5),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=keras.losses.CTC())
model.fit(frames, letters, batch_size=8, epochs=1, shuffle=False, verbose=2)
