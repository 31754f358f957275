# expect: step=16 born_in=update op=null cause=lr_schedule_nan rows=null
"""A LearningRateScheduler callback whose own formula divides 0 by 0 in the third epoch."""

import keras
import numpy as np

np.seterr(all="ignore")
keras.utils.set_random_seed(323)
rng = np.random.default_rng(323)
x = rng.normal(size=(128, 4)).astype("float32")
y = x.sum(axis=1, keepdims=True)


def cyclic(epoch, lr):
    position = np.float64(epoch % 3)
    return float(0.01 * (2.0 - position) / np.abs(2.0 - position))


model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
model.fit(  # NG603 here
    x,
    y,
    batch_size=16,
    epochs=4,
    verbose=0,
    callbacks=[keras.callbacks.LearningRateScheduler(cyclic)],
)
