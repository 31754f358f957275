# expect: healthy short=1
"""An Inf on purpose: the running minimum of a distance starts at Inf, and minimum() handles it."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(406)
points = tf.constant(rng.normal(size=(96, 2)), tf.float32)
centres = tf.Variable(tf.random.stateless_normal([4, 2], seed=(4, 6)))
optimizer = tf.keras.optimizers.SGD(0.1, clipnorm=1.0)


@tf.function
def train_step(x):
    with tf.GradientTape() as tape:
        nearest = tf.fill([tf.shape(x)[0]], float("inf"))
        for k in range(4):
            nearest = tf.minimum(nearest, tf.reduce_sum(tf.square(x - centres[k]), axis=1))
        loss = tf.reduce_mean(nearest)
    optimizer.apply_gradients([(tape.gradient(loss, centres), centres)])
    return loss


for i in range(12):
    loss = train_step(points)
print(loss.numpy())
