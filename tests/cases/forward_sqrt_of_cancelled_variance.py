# expect: step=2 born_in=forward|data op=Sqrt forward_op=null cause=domain_error|data_bad_preprocessing rows=6 dataset_rows=38 short=1
"""Deviation as sqrt(E[x^2] - E[x]^2): for a nearly constant trace the difference cancels to less than 0."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(51)
rng = np.random.default_rng(51)

traces = rng.normal(20.0, 3.0, (96, 3)).astype("float32")
traces[38] = 1010.11  # a stuck pressure sensor
target = rng.normal(size=(96, 1)).astype("float32")


class Moments(keras.layers.Layer):
    def call(self, trace):
        mean = tf.reduce_mean(trace, axis=1, keepdims=True)
        mean_of_squares = tf.reduce_mean(trace**2, axis=1, keepdims=True)
        deviation = tf.sqrt(mean_of_squares - mean**2)  # NG106|NG702 here
        return tf.concat([mean / 1000.0, deviation], axis=1)


model = keras.Sequential([keras.Input((3,)), Moments(), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mae", auto_scale_loss=False)
model.fit(traces, target, batch_size=16, epochs=1, shuffle=False, verbose=0)
