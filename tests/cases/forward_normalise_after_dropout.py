# expect: step=5 born_in=forward op=RealDiv forward_op=null cause=div_by_zero
"""Dropout of half the units before a hand-written unit norm: now and then it drops the whole vector."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(47)
rng = np.random.default_rng(47)
x = rng.normal(size=(96, 6)).astype("float32")
y = rng.integers(0, 3, 96)


class UnitNorm(keras.layers.Layer):
    def call(self, v):
        length = tf.sqrt(tf.reduce_sum(v * v, axis=-1, keepdims=True))
        return v / length  # NG105 here


model = keras.Sequential(
    [
        keras.Input((6,)),
        keras.layers.Dense(6, activation="tanh"),
        keras.layers.Dropout(0.5),
        UnitNorm(),
        keras.layers.Dense(3),
    ]
)
model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=2)
