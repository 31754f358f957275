# expect: step=1 born_in=forward|data op=Log forward_op=null cause=log_of_zero|data_bad_preprocessing rows=5,20 dataset_rows=37,52
"""Entropy of each image's grey-value histogram as an input feature, computed in the model."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(32)
rng = np.random.default_rng(32)

histograms = rng.integers(1, 40, (96, 8)).astype("float32")
histograms[37, 7] = 0
histograms[52, :3] = 0
textured = (histograms.std(axis=1) > 11).astype("float32")


def entropy(counts):
    p = counts / tf.reduce_sum(counts, axis=-1, keepdims=True)
    return -tf.reduce_sum(p * tf.math.log(p), axis=-1, keepdims=True)  # NG101|NG702 here


inputs = keras.Input((8,))
features = keras.layers.Concatenate()([inputs / 40.0, keras.layers.Lambda(entropy, output_shape=(1,))(inputs)])
outputs = keras.layers.Dense(1)(keras.layers.Dense(8, activation="tanh")(features))
model = keras.Model(inputs, outputs)
model.compile(
    optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.BinaryCrossentropy(from_logits=True), run_eagerly=True
)
model.fit(histograms, textured, batch_size=32, epochs=2, shuffle=False, verbose=0)
