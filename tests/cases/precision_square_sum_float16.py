# expect: step=0 born_in=forward op=Square forward_op=null cause=fp16_range
"""Energy of a spectrum in half precision: 300 squared is beyond 65504."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(103)
rng = np.random.default_rng(103)
spectra = rng.uniform(50, 400, (128, 20)).astype("float32")
target = (spectra.mean(axis=1, keepdims=True) / 400).astype("float32")


class Energy(keras.layers.Layer):
    def call(self, x):
        return tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)  # NG401 here


model = keras.Sequential(
    [
        keras.Input((20,)),
        Energy(dtype="float16"),
        keras.layers.Rescaling(1e-6, dtype="float32"),
        keras.layers.Dense(4, activation="tanh"),
        keras.layers.Dense(1),
    ]
)
model.compile("adam", "mse")
model.fit(spectra, target, epochs=1, verbose=0)
