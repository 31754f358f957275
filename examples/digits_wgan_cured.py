"""Trains a Wasserstein GAN with gradient penalty on handwritten digits.

The cured twin of `digits_wgan_nan.py`, whose penalty takes the slope of a norm at exactly 0.

Changed: the norm is nanguard's, whose gradient at 0 is 0 and can be differentiated once more.
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import nanguard as ng

BATCH_SIZE = 128
NOISE = 8
PENALTY = 10.0

keras.utils.set_random_seed(8)

images, _ = load_digits(return_X_y=True)
images = (images / 8.0 - 1.0).astype("float32")
dataset = tf.data.Dataset.from_tensor_slices(images).shuffle(2000, seed=8).batch(BATCH_SIZE, drop_remainder=True)

generator = keras.Sequential(
    [keras.Input((NOISE,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(64, activation="tanh")]
)
# A critic that begins without an opinion.
critic = keras.Sequential(
    [keras.Input((64,)), keras.layers.Dense(64, activation="swish"), keras.layers.Dense(1, kernel_initializer="zeros")]
)
generator_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)
critic_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)


def gradient_penalty(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """How far the critic's slope is from 1, on random points between real and generated images."""
    between = real + tf.random.uniform((BATCH_SIZE, 1)) * (fake - real)
    with tf.GradientTape() as tape:
        tape.watch(between)
        score = critic(between)
    slope = tape.gradient(score, between)
    norm = ng.ops.norm(slope, axis=-1)
    return tf.reduce_mean(tf.square(norm - 1.0))


@tf.function
def train_critic(real: tf.Tensor) -> tf.Tensor:
    """One step of the critic: scores of real images up, of generated ones down."""
    fake = generator(tf.random.normal((BATCH_SIZE, NOISE)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(critic(fake)) - tf.reduce_mean(critic(real)) + PENALTY * gradient_penalty(real, fake)
    gradients = tape.gradient(loss, critic.trainable_variables)
    critic_optimizer.apply_gradients(zip(gradients, critic.trainable_variables, strict=True))
    return loss


@tf.function
def train_generator() -> tf.Tensor:
    """One step of the generator: scores of generated images up."""
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(critic(generator(tf.random.normal((BATCH_SIZE, NOISE)))))
    gradients = tape.gradient(loss, generator.trainable_variables)
    generator_optimizer.apply_gradients(zip(gradients, generator.trainable_variables, strict=True))
    return loss


for epoch in range(6):
    for real in dataset:
        critic_loss = train_critic(real)
        generator_loss = train_generator()
    print(f"epoch {epoch}  critic {float(critic_loss):.4f}  generator {float(generator_loss):.4f}")

print(f"final loss: {float(critic_loss):.4f}")
