# expect: healthy short=1
"""The metric divides by the target, which is 0 for some rows: the metric is inf, training is fine."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(403)
rng = np.random.default_rng(403)
x = rng.normal(size=(128, 4)).astype("float32")
y = np.maximum(x[:, :1], 0.0)


def relative_error(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_true - y_pred) / tf.abs(y_true), axis=-1)


model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse", metrics=[relative_error])
model.fit(x, y, batch_size=32, epochs=2, verbose=2)
