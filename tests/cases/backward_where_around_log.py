# expect: step=2 born_in=backward op=Reciprocal|Mul|Inv forward_op=Log cause=where_gradient_trap rows=6 dataset_rows=70 short=1
"""tf.where picks 0 for the empty bins, but the gradient still goes through log(0)."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(221)
rng = np.random.default_rng(221)
counts = rng.poisson(6.0, (128, 10)).astype("float32") + 1.0
counts[70, 3] = 0.0
target = rng.normal(size=(128, 1)).astype("float32")


class LogScale(keras.layers.Layer):
    def build(self, input_shape):
        self.exposure = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="exposure")

    def call(self, x):
        x = x * self.exposure
        return tf.where(x > 0, tf.math.log(x), tf.zeros_like(x))  # NG303 here


model = keras.Sequential([keras.Input((10,)), LogScale(), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(0.001), loss="mse")
model.fit(counts, target, batch_size=32, epochs=2, shuffle=False, verbose=2)
