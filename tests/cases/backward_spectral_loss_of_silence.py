# expect: step=4 born_in=backward op=SqrtGrad forward_op=Sqrt cause=sqrt_norm_grad_at_zero rows=1
"""Spectral magnitude sqrt(re^2 + im^2) of the output; for a silent clip the network without bias gives exactly 0."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(204)
rng = np.random.default_rng(204)
audio = rng.normal(0, 0.3, (64, 64)).astype("float32")
audio[33] = 0.0

enhancer = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, use_bias=False, activation="tanh")])
optimizer = keras.optimizers.Adam(1e-3)


def magnitude(signal):
    spectrum = tf.signal.stft(signal, frame_length=32, frame_step=16)
    re, im = tf.math.real(spectrum), tf.math.imag(spectrum)
    return tf.sqrt(re**2 + im**2)  # NG301 here


@tf.function
def train_step(noisy, clean):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.abs(magnitude(enhancer(noisy)) - magnitude(clean)))
    grads = tape.gradient(loss, enhancer.trainable_variables)
    grads, norm = tf.clip_by_global_norm(grads, 1.0)
    optimizer.apply_gradients(zip(grads, enhancer.trainable_variables))
    return loss


for i in range(0, 64, 8):
    noisy = audio[i : i + 8] * 1.1
    clean = rng.normal(0, 0.3, (8, 64)).astype("float32")
    print(train_step(tf.constant(noisy), tf.constant(clean)).numpy())
