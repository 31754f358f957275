# expect: step=0 born_in=forward op=Cholesky forward_op=null cause=linalg_degenerate
"""Gaussian log-likelihood with a learned scale per pixel; pixels that are always 0 make the covariance singular."""

import tensorflow as tf
from sklearn.datasets import load_digits

pixels = tf.constant(load_digits().data[:512] / 16.0, tf.float32)
scale = tf.Variable(tf.ones([64]))
sgd = tf.keras.optimizers.SGD(0.01)


@tf.function
def train_step(x):
    with tf.GradientTape() as tape:
        z = x * scale
        z -= tf.reduce_mean(z, axis=0, keepdims=True)
        covariance = tf.matmul(z, z, transpose_a=True) / tf.cast(tf.shape(x)[0], tf.float32)
        loss = tf.reduce_sum(tf.square(scale)) - tf.linalg.logdet(covariance)  # NG504 here
    sgd.apply_gradients([(tape.gradient(loss, scale), scale)])
    return loss


for i in range(0, 512, 128):
    print(train_step(pixels[i : i + 128]).numpy())
