"""Trains a variational autoencoder on handwritten digits, and goes to infinity in the encoder's variance.

The encoder puts out the logarithm of a variance, and nothing bounds it. On 8-bit pixels it leaves the range in which
`exp` is finite in float32 (up to 88.7) at once: the divergence and the loss are infinite, and the weights NaN.
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
        log_variance = self.log_variance(hidden)
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
images = images.astype("float32") * (255.0 / 16.0)  # to 8 bits, as the camera gives them
dataset = tf.data.Dataset.from_tensor_slices(images).batch(128)

model = VariationalAutoencoder()
model.compile(optimizer=keras.optimizers.Adam(0.001))
history = model.fit(dataset, epochs=10, verbose=2)

print(f"final loss: {history.history['loss'][-1]:.4f}")
