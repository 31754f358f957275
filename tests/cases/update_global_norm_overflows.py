# expect: step=5 born_in=update|backward op=L2Loss cause=clip_spreads_nan rows=4 short=1
"""Exponential loss and clipping by the global norm: one large, finite gradient has an infinite norm, and all are NaN."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(331)
rng = np.random.default_rng(331)
x = rng.normal(size=(128, 3)).astype("float32")
sign = np.sign(x[:, :1] + 0.1).astype("float32")
x[84, 0] = 70.0
sign[84] = -np.sign(x[84, 0])  # far out and labelled wrong

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
optimizer = keras.optimizers.Adam(1e-3)


@tf.function
def train_step(features, sign):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.exp(-sign * model(features, training=True)))
    gradients = tape.gradient(loss, model.trainable_variables)
    gradients, _ = tf.clip_by_global_norm(gradients, 5.0)  # NG604 here
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss


for i in range(0, 128, 16):
    print(train_step(tf.constant(x[i : i + 16]), tf.constant(sign[i : i + 16])).numpy())
