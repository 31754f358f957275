# expect: step=0 born_in=forward op=Cholesky forward_op=null cause=linalg_degenerate
"""Gaussian process regression without jitter; two inputs are the same, so that the kernel matrix is singular."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(111)
x = np.sort(rng.uniform(-1, 1, 40)).astype("float32")
x[11] = x[10]
y = np.sin(3 * x) + 0.1 * rng.normal(size=40).astype("float32")
x, y = tf.constant(x[:, None]), tf.constant(y[:, None])

log_length = tf.Variable(0.0)
log_scale = tf.Variable(0.0)
optimizer = tf.keras.optimizers.Adam(0.05)


def negative_log_likelihood():
    squared = tf.square(x - tf.transpose(x))
    kernel = tf.exp(2 * log_scale) * tf.exp(-0.5 * squared / tf.exp(2 * log_length))
    chol = tf.linalg.cholesky(kernel)  # NG504 here
    alpha = tf.linalg.cholesky_solve(chol, y)
    return 0.5 * tf.reduce_sum(y * alpha) + tf.reduce_sum(tf.math.log(tf.linalg.diag_part(chol)))


@tf.function
def train_step():
    with tf.GradientTape() as tape:
        loss = negative_log_likelihood()
    variables = [log_length, log_scale]
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    return loss


for i in range(5):
    print(i, train_step().numpy())
