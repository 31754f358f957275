# expect: step=1 born_in=forward op=Log forward_op=null cause=softmax_then_log
"""The original GAN objective on values from 0 to 255: the discriminator becomes certain, and log(D(fake)) is -inf."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(36)
rng = np.random.default_rng(36)

generator = keras.Sequential(
    [
        keras.Input((4,)),
        keras.layers.Dense(16, "relu"),
        keras.layers.Dense(16, "sigmoid"),
        keras.layers.Rescaling(255.0),
    ],
    name="generator",
)
discriminator = keras.Sequential(
    [keras.Input((16,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(1, "sigmoid")], name="discriminator"
)
g_optimizer = keras.optimizers.Adam(1e-4)
d_optimizer = keras.optimizers.Adam(1e-2)


def discriminator_loss(real, fake):
    return -tf.reduce_mean(tf.math.log(discriminator(real) + 1e-7) + tf.math.log(1.0 - discriminator(fake) + 1e-7))


def generator_loss(fake):
    return -tf.reduce_mean(tf.math.log(discriminator(fake)))  # NG103 here


@tf.function
def train_step(real, noise):
    with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
        fake = generator(noise, training=True)
        d_loss = discriminator_loss(real, fake)
        g_loss = generator_loss(fake)
    d_grads = d_tape.gradient(d_loss, discriminator.trainable_variables)
    g_grads = g_tape.gradient(g_loss, generator.trainable_variables)
    d_optimizer.apply_gradients(zip(d_grads, discriminator.trainable_variables))
    g_optimizer.apply_gradients(zip(g_grads, generator.trainable_variables))
    return d_loss, g_loss


for i in range(40):
    real = tf.constant(rng.integers(0, 2, (32, 16)) * 255.0, tf.float32)
    noise = tf.constant(rng.normal(size=(32, 4)), tf.float32)
    d_loss, g_loss = train_step(real, noise)
    if i % 4 == 0:
        print(i, float(d_loss), float(g_loss))
