# expect: step=8 born_in=forward op=RealDiv forward_op=null cause=div_by_zero rows=null
"""A home-made batch standardisation; 129 samples in batches of 16 leave a last batch of one."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(45)
rng = np.random.default_rng(45)


class BatchStandardise(keras.layers.Layer):
    def call(self, inputs):
        centred = inputs - tf.reduce_mean(inputs, axis=0, keepdims=True)
        deviation = tf.sqrt(tf.reduce_mean(tf.square(centred), axis=0, keepdims=True))
        return centred / deviation  # NG105 here


x = rng.normal(size=(129, 6)).astype("float32")
y = x[:, :1] * 2 - x[:, 1:2]
dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(129, seed=1).batch(16)

model = keras.Sequential([keras.Input((6,)), BatchStandardise(), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
model.fit(dataset, epochs=2, verbose=2)
