# expect: healthy
"""The safe form: where(x > 0, log(where(x > 0, x, 1)), 0)."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(402)
counts = rng.poisson(0.7, (128, 6)).astype("float32")
target = rng.normal(size=(128, 1)).astype("float32")
exposure = tf.Variable(tf.ones([6]))
w = tf.Variable(tf.random.stateless_normal([6, 1], seed=(4, 2)))
optimizer = tf.keras.optimizers.Adam(0.01)


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        z = x * exposure
        safe = tf.where(z > 0, z, tf.ones_like(z))
        features = tf.where(z > 0, tf.math.log(safe), tf.zeros_like(z))
        loss = tf.reduce_mean(tf.square(features @ w - y))
    gradients = tape.gradient(loss, [exposure, w])
    optimizer.apply_gradients(zip(gradients, [exposure, w]))
    return loss


for epoch in range(3):
    for i in range(0, 128, 32):
        loss = train_step(counts[i : i + 32], target[i : i + 32])
    print(epoch, loss.numpy())
