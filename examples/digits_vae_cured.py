"""Trains a variational autoencoder on handwritten digits.

The cured twin of `digits_vae_nan.py`, whose log-variance leaves the range in which `exp` is finite.

Changed: pixels are scaled to 0 to 1, so that the encoder starts with outputs near 0, and the log-variance is bounded by
a scaled tanh, so that no later step can bring the overflow back. Its gradient is never cut off, as a clip's would be.
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

LATENT = 4

keras.utils.set_random_seed(11)


class VariationalAutoencoder(keras.Model):
    """An encoder to a Gaussian in the latent space, and a decoder back to the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = keras.layers.Dense(128, activation="relu", name="encoder")
        self.mean = keras.layers.Dense(LATENT, name="mean")
        self.log_variance = keras.layers.Dense(LATENT, name="log_variance")
        self.decoder = keras.Sequential([keras.layers.Dense(128, activation="relu"), keras.layers.Dense(64)])
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Gives the reconstruction, and the mean and log-variance that it was sampled from."""
        hidden = self.encoder(images)
        mean = self.mean(hidden)
        log_variance = 10.0 * tf.tanh(self.log_variance(hidden) / 10.0)
        sample = mean + tf.exp(0.5 * log_variance) * tf.random.normal(tf.shape(mean))
        return self.decoder(sample), mean, log_variance

    def train_step(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step on the negative evidence lower bound."""
        with tf.GradientTape() as tape:
            reconstruction, mean, log_variance = self(images, training=True)
            error = tf.reduce_sum(tf.square(images - reconstruction), axis=-1)
            divergence = 0.5 * tf.reduce_sum(tf.square(mean) + tf.exp(log_variance) - log_variance - 1.0, axis=-1)
            loss = tf.reduce_mean(error + divergence)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


images, _ = load_digits(return_X_y=True)
images = images.astype("float32") / 16.0
dataset = tf.data.Dataset.from_tensor_slices(images).batch(128)

model = VariationalAutoencoder()
model.compile(optimizer=keras.optimizers.Adam(0.001))
history = model.fit(dataset, epochs=10, verbose=2)

print(f"final loss: {history.history['loss'][-1]:.4f}")
