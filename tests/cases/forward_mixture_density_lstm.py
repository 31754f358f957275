# expect: step=3 born_in=forward op=Log forward_op=null cause=log_of_zero rows=11 dataset_rows=59
"""Mixture density LSTM: the density of a far-off target underflows to 0, and its log is -inf."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(37)
rng = np.random.default_rng(37)
strokes = rng.normal(size=(96, 8, 2)).astype("float32")
following = strokes.mean(axis=1)[:, :1] + rng.normal(0, 0.3, (96, 1)).astype("float32")
following[59] = 40.0  # a pen lifted and set down elsewhere

K = 3
inputs = keras.Input((8, 2))
hidden = keras.layers.LSTM(8)(inputs)
weight = keras.layers.Dense(K, activation="softmax")(hidden)
centre = keras.layers.Dense(K)(hidden)
spread = keras.layers.Dense(K, activation="softplus")(hidden)
model = keras.Model(inputs, keras.layers.Concatenate()([weight, centre, spread]))


def negative_log_likelihood(y_true, parameters):
    weight, centre, spread = tf.split(parameters, 3, axis=-1)
    z = (y_true - centre) / spread
    density = tf.exp(-0.5 * z**2) / (spread * np.sqrt(2 * np.pi))
    mixture = tf.reduce_sum(weight * density, axis=-1)
    return -tf.math.log(mixture)  # NG101 here


model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=negative_log_likelihood)
model.fit(strokes, following, batch_size=16, epochs=1, shuffle=False, verbose=0)
