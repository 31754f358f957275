# expect: step=0 born_in=backward op=SqrtGrad forward_op=Sqrt cause=gradient_penalty_norm
"""WGAN-GP with a critic whose last layer starts at zero: the gradient's norm is 0 and has no slope."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(241)
rng = np.random.default_rng(241)

generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2)])
critic = keras.Sequential(
    [keras.Input((2,)), keras.layers.Dense(16, "leaky_relu"), keras.layers.Dense(1, kernel_initializer="zeros")]
)
g_optimizer = keras.optimizers.Adam(1e-4, beta_1=0.5)
c_optimizer = keras.optimizers.Adam(1e-4, beta_1=0.5)


def gradient_penalty(real, fake):
    alpha = tf.random.uniform([tf.shape(real)[0], 1], 0.0, 1.0)
    mixed = real + alpha * (fake - real)
    with tf.GradientTape() as tape:
        tape.watch(mixed)
        score = critic(mixed, training=True)
    slope = tape.gradient(score, mixed)
    norm = tf.sqrt(tf.reduce_sum(tf.square(slope), axis=1))  # NG306 here
    return tf.reduce_mean((norm - 1.0) ** 2)


@tf.function
def critic_step(real, noise):
    with tf.GradientTape() as tape:
        fake = generator(noise, training=True)
        loss = tf.reduce_mean(critic(fake)) - tf.reduce_mean(critic(real)) + 10.0 * gradient_penalty(real, fake)
    grads = tape.gradient(loss, critic.trainable_variables)
    c_optimizer.apply_gradients(zip(grads, critic.trainable_variables))
    return loss


@tf.function
def generator_step(noise):
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(critic(generator(noise, training=True)))
    grads = tape.gradient(loss, generator.trainable_variables)
    g_optimizer.apply_gradients(zip(grads, generator.trainable_variables))
    return loss


for i in range(10):
    for _ in range(3):
        real = tf.constant(rng.normal([2, 1], 0.2, (32, 2)), tf.float32)
        critic_loss = critic_step(real, tf.constant(rng.normal(size=(32, 4)), tf.float32))
    generator_loss = generator_step(tf.constant(rng.normal(size=(32, 4)), tf.float32))
    print(i, float(critic_loss), float(generator_loss))
