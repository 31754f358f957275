# expect: step=4 born_in=data op=null cause=data_outlier rows=0 dataset_rows=64
"""Sensor target with one corrupt reading of 2e22; its squared error is beyond float32."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(12)
rng = np.random.default_rng(12)

signal = rng.normal(size=(128, 6)).astype("float32")
reading = signal.sum(axis=1, keepdims=True)
reading[64] = 2.0e22

inputs = keras.layers.Input(shape=(6,))
outputs = keras.layers.Dense(1)(keras.layers.Dense(12, activation="softplus")(inputs))
model = keras.Model(inputs, outputs)
optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
mse = keras.losses.MeanSquaredError()


@tf.function(jit_compile=True)
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = mse(y, model(x, training=True))
    optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
    return loss


losses = []
for i in range(0, 128, 16):
    losses.append(train_step(tf.constant(signal[i : i + 16]), tf.constant(reading[i : i + 16])).numpy())  # NG706 here
print(losses)
