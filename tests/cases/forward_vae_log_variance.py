# expect: step=0 born_in=forward op=Exp forward_op=null cause=exp_overflow
"""A variational autoencoder on pixels from 0 to 255: exp(log-variance) overflows in the first step."""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(91)
images = (load_digits().data[:512] * 255 / 16).astype("float32")


class Sampling(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, inputs):
        mean, log_var = inputs
        epsilon = keras.random.normal(tf.shape(mean), seed=self.seed_generator)
        return mean + tf.exp(0.5 * log_var) * epsilon


class VAE(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = keras.layers.Dense(32, activation="relu")
        self.mean = keras.layers.Dense(4)
        self.log_var = keras.layers.Dense(4)
        self.sampling = Sampling()
        self.decoder = keras.Sequential([keras.layers.Dense(32, activation="relu"), keras.layers.Dense(64)])

    def train_step(self, images):
        with tf.GradientTape() as tape:
            hidden = self.encoder(images)
            mean, log_var = self.mean(hidden), self.log_var(hidden)
            kl = -0.5 * tf.reduce_mean(1 + log_var - tf.square(mean) - tf.exp(log_var))  # NG201 here
            reconstruction = self.decoder(self.sampling((tf.tanh(mean), tf.minimum(log_var, 5.0))))
            loss = tf.reduce_mean(tf.square(images - reconstruction)) + kl
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        return {"loss": loss, "kl": kl}


vae = VAE()
vae.compile(optimizer=keras.optimizers.Adam())
vae.fit(images, epochs=1, batch_size=128, verbose=2)
