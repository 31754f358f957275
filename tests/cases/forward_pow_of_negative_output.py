# expect: step=0 born_in=forward op=Pow forward_op=null cause=domain_error
"""Gamma compression of a linear output that is negative for many samples."""

import numpy as np
import tensorflow as tf

tf.keras.utils.set_random_seed(53)
rng = np.random.default_rng(53)
low = rng.uniform(0, 1, (64, 10)).astype("float32")
high = rng.uniform(0, 1, (64, 10)).astype("float32")

net = tf.keras.Sequential([tf.keras.layers.Dense(16, activation="tanh"), tf.keras.layers.Dense(10)])
opt = tf.keras.optimizers.SGD(0.1)

for i in range(4):
    x, y = low[i * 16 : i * 16 + 16], high[i * 16 : i * 16 + 16]
    with tf.GradientTape() as tape:
        output = net(x, training=True)
        brightness = tf.pow(  # NG108 here
            output,
            1.0 / 2.2,
        )
        loss = tf.reduce_mean(tf.square(brightness - y))
    grads = tape.gradient(loss, net.trainable_variables)
    opt.apply_gradients(zip(grads, net.trainable_variables))
    print(i, float(loss))
