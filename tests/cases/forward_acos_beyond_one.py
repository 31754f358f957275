# expect: step=2 born_in=forward op=Acos forward_op=null cause=domain_error
"""Angle between predicted and true direction; rounding lifts the cosine of two equal unit vectors above 1."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(54)
directions = rng.normal(size=(160, 7)).astype("float32")
measured = directions + rng.normal(0, 0.3, (160, 7)).astype("float32")
measured[64:96] = directions[64:96]  # the calibration shots are exact

gain = tf.Variable(tf.ones([7]))
optimizer = tf.keras.optimizers.SGD(0.0)  # warm-up: the rate is 0 in the first epoch
optimizer.build([gain])


def unit(vectors):
    return vectors / tf.norm(vectors, axis=1, keepdims=True)


@tf.function
def train_step(vectors, truth):
    with tf.GradientTape() as tape:
        cosine = tf.reduce_sum(unit(vectors * gain) * unit(truth), axis=1)
        angle = tf.acos(cosine)  # NG109 here
        loss = tf.reduce_mean(angle)
    optimizer.apply_gradients([(tape.gradient(loss, gain), gain)])
    return loss


for start in range(0, 160, 32):
    print(train_step(measured[start : start + 32], directions[start : start + 32]).numpy())
