# expect: step=1 born_in=forward|data op=RealDiv forward_op=null cause=div_by_zero|data_bad_preprocessing rows=7
"""Square roots by Newton's method in a tf.while_loop; for 0 the divisor underflows to 0 after enough rounds."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(313)
areas = rng.uniform(0.5, 4.0, 96).astype("float32")
areas[24 + 7] = 0.0
sides = np.sqrt(areas)

factor = tf.Variable(0.8)
optimizer = tf.keras.optimizers.SGD(0.01)


def newton_sqrt(a):
    def body(i, x):
        x = 0.5 * (x + a / x)  # NG105|NG702 here
        return i + 1, x

    _, root = tf.while_loop(lambda i, x: i < 200, body, [tf.constant(0), tf.ones_like(a)])
    return root


@tf.function
def train_step(a, side):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.abs(factor * newton_sqrt(a) - side))
    optimizer.apply([tape.gradient(loss, factor)], [factor])
    return loss


for i in range(0, 96, 24):
    print(train_step(tf.constant(areas[i : i + 24]), tf.constant(sides[i : i + 24])).numpy())
