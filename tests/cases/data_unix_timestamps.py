# expect: step=1 born_in=divergence cause=data_scale
"""Electricity load from the raw UNIX time and the temperature, trained in a plain eager loop."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(3)
time = 1_600_000_000 + 3600 * np.arange(240)
temperature = 15 + 8 * np.sin(np.arange(240) * 2 * np.pi / 24) + rng.normal(0, 1, 240)
load = 300 - 4 * temperature + rng.normal(0, 5, 240)

x = tf.constant(np.stack([time, temperature], axis=1), tf.float32)
y = tf.constant(load, tf.float32)

weights = tf.Variable(tf.random.stateless_normal([2, 1], seed=[1, 2]) * 0.1)
bias = tf.Variable(tf.zeros([1]))
lr = 1e-3


def step(xb, yb):
    with tf.GradientTape() as tape:
        prediction = tf.matmul(xb, weights) + bias
        loss = tf.reduce_mean((prediction[:, 0] - yb) ** 2)
    dw, db = tape.gradient(loss, [weights, bias])
    weights.assign_sub(lr * dw)
    bias.assign_sub(lr * db)
    return loss


for epoch in range(5):
    for start in range(0, 240, 48):
        loss = step(x[start : start + 48], y[start : start + 48])
    print("epoch", epoch, "loss", loss.numpy())
