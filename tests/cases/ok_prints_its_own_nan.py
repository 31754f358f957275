# expect: healthy
"""The script computes and prints NaN and Inf of its own with NumPy; training has no part in it."""

import keras
import numpy as np

np.seterr(all="ignore")
keras.utils.set_random_seed(415)
rng = np.random.default_rng(415)
table = rng.normal(size=(128, 4)).astype("float32")
table[3, 1] = np.nan
print("mean with the gap:", table.mean(), "ratio:", np.float32(1) / np.float32(0))

x = np.nan_to_num(table)
y = x[:, 0] > 0
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
model.compile(optimizer="adam", loss="binary_crossentropy")
history = model.fit(x, y.astype("float32"), epochs=2, verbose=0)
print("loss: nan? no:", history.history["loss"])
