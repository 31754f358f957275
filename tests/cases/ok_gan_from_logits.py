# expect: healthy
"""A GAN with the loss from logits, two models and two optimizers."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(409)
rng = np.random.default_rng(409)

generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
discriminator = keras.Sequential(
    [keras.Input((2,)), keras.layers.Dense(8, "leaky_relu"), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
)
g_optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5)
d_optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5)
bce = keras.losses.BinaryCrossentropy(from_logits=True)


@tf.function
def train_step(real):
    noise = tf.random.normal([tf.shape(real)[0], 3])
    with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
        fake = generator(noise, training=True)
        real_score, fake_score = discriminator(real, training=True), discriminator(fake, training=True)
        g_loss = bce(tf.ones_like(fake_score), fake_score)
        d_loss = bce(tf.ones_like(real_score), real_score) + bce(tf.zeros_like(fake_score), fake_score)
    g_grads = g_tape.gradient(g_loss, generator.trainable_variables)
    d_grads = d_tape.gradient(d_loss, discriminator.trainable_variables)
    g_optimizer.apply_gradients(zip(g_grads, generator.trainable_variables))
    d_optimizer.apply_gradients(zip(d_grads, discriminator.trainable_variables))
    return g_loss, d_loss


for i in range(40):
    g_loss, d_loss = train_step(tf.constant(rng.normal([1, -1], 0.3, (32, 2)), tf.float32))
print(float(g_loss), float(d_loss))
