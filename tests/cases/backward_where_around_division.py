# expect: step=5 born_in=backward op=RealDiv|Mul|Xdivy forward_op=RealDiv cause=where_gradient_trap
"""A guarded quotient, where(d != 0, n / d, 0), in a training loop that lives inside one tf.function."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(222)
sent = rng.integers(1, 9, (160, 3)).astype("float32")
opened = np.floor(sent * rng.uniform(0, 1, (160, 3))).astype("float32")
sent[85, 1], opened[85, 1] = 0.0, 0.0
sales = rng.normal(size=(160, 1)).astype("float32")

decay = tf.Variable(tf.ones([3]))
w = tf.Variable(tf.random.stateless_normal([3, 1], seed=(2, 22)))
optimizer = tf.keras.optimizers.Adam(0.01)
optimizer.build([decay, w])


def rate(n, d):
    d = d * decay
    return tf.where(d != 0, n / d, 0.0)  # NG303 here


@tf.function
def train(dataset):
    loss = 0.0
    for n, d, target in dataset:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(rate(n, d) @ w - target))
        gradients = tape.gradient(loss, [decay, w])
        optimizer.apply_gradients(zip(gradients, [decay, w]))
    return loss


print(train(tf.data.Dataset.from_tensor_slices((opened, sent, sales)).batch(16)).numpy())
