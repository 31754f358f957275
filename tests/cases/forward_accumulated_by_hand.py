# expect: step=2 born_in=forward op=RealDiv forward_op=null cause=div_by_zero rows=3
"""Gradients summed over four micro-batches by hand; a sample of weight 0 everywhere is divided by its own total."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(46)
rng = np.random.default_rng(46)
x = rng.normal(size=(128, 6)).astype("float32")
w = rng.integers(0, 3, (128, 6)).astype("float32") + (np.arange(6) == 0)
y = rng.normal(size=(128, 1)).astype("float32")
w[9 * 8 + 3] = 0.0

model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(6)])
optimizer = keras.optimizers.Adam(1e-3)
sums = [tf.Variable(tf.zeros_like(v), trainable=False) for v in model.trainable_variables]


@tf.function
def micro_step(features, weights, target):
    with tf.GradientTape() as tape:
        votes = model(features, training=True)
        average = tf.reduce_sum(weights * votes, 1, keepdims=True) / tf.reduce_sum(weights, 1, keepdims=True)  # NG105 here
        loss = tf.reduce_mean(tf.abs(average - target))
    for total, gradient in zip(sums, tape.gradient(loss, model.trainable_variables)):
        total.assign_add(gradient / 4.0)
    return loss


@tf.function
def apply():
    optimizer.apply_gradients(zip([s.value() for s in sums], model.trainable_variables))
    for total in sums:
        total.assign(tf.zeros_like(total))


for i in range(16):
    part = slice(8 * i, 8 * i + 8)
    loss = micro_step(tf.constant(x[part]), tf.constant(w[part]), tf.constant(y[part]))
    if (i + 1) % 4 == 0:
        apply()
        print("update", (i + 1) // 4, loss.numpy())
