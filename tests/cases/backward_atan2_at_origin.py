# expect: step=3 born_in=backward op=RealDiv|Reciprocal|Inv forward_op=Atan2 cause=acos_grad_at_one rows=6
"""Heading from atan2(dy, dx) for a vehicle that stands still, in a model subclass trained by a custom loop."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(232)
rng = np.random.default_rng(232)
motion = rng.normal(size=(96, 2)).astype("float32")
motion[3 * 16 + 6] = 0.0
heading = np.arctan2(motion[:, 1], motion[:, 0]).astype("float32")

calibration = tf.Variable(np.array([[1.0, 0.1], [-0.1, 1.0]], "float32"))
optimizer = keras.optimizers.SGD(1e-2)
optimizer.build([calibration])


@tf.function(jit_compile=True)
def step(velocity, angle):
    with tf.GradientTape() as tape:
        v = velocity @ calibration
        predicted = tf.math.atan2(v[:, 1], v[:, 0])  # NG305 here
        loss = tf.reduce_mean(1.0 - tf.cos(predicted - angle))
    optimizer.apply([tape.gradient(loss, calibration)], [calibration])
    return loss


for k in range(6):
    print(step(tf.constant(motion[16 * k : 16 * k + 16]), tf.constant(heading[16 * k : 16 * k + 16])).numpy())
