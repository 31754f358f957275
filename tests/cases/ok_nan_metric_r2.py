# expect: healthy
"""A correlation metric that is 0 / 0 = NaN on a batch of equal targets; the loss never sees it."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(404)
rng = np.random.default_rng(404)
x = rng.normal(size=(96, 3)).astype("float32")
y = (x @ np.ones((3, 1))).astype("float32")
y[32:64] = 1.0


def correlation(y_true, y_pred):
    a = y_true - ops.mean(y_true)
    b = y_pred - ops.mean(y_pred)
    return ops.sum(a * b) / ops.sqrt(ops.sum(a * a) * ops.sum(b * b))


model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mae", metrics=[correlation], jit_compile=True)
model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=2)
