"""Predicts the progression of diabetes as a count.

The cured twin of `diabetes_poisson_nan.py`, in which nothing holds the predicted rate above zero.

Changed: the network predicts the logarithm of the rate, and the loss takes the rate from it. Every number is the
logarithm of some positive rate, so the likelihood is defined for whatever the network says.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_diabetes

BATCH_SIZE = 64
EPOCHS = 30

keras.utils.set_random_seed(21)


def poisson_nll(count: tf.Tensor, log_rate: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood of a count under a Poisson distribution, without the constant log(count!)."""
    return tf.reduce_mean(tf.exp(log_rate) - count * log_rate)


# Ten standardised measurements of 442 patients; the target is a score from 25 to 346.
measurements, score = load_diabetes(return_X_y=True)
x = (measurements / measurements.std(axis=0)).astype("float32")
y = (score / 10.0).round().astype("float32")[:, None]

model = keras.Sequential(
    [
        keras.Input((x.shape[1],)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(1, name="log_rate"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(0.005), loss=poisson_nll)

# Batches are fed by hand: the order of the patients is drawn once per epoch.
order = np.random.default_rng(5)
for epoch in range(EPOCHS):
    losses = []
    permutation = order.permutation(len(x))
    for start in range(0, len(x), BATCH_SIZE):
        rows = permutation[start : start + BATCH_SIZE]
        losses.append(float(model.train_on_batch(x[rows], y[rows])))
    if epoch % 5 == 0:
        print(f"epoch {epoch:2d}  loss {losses[-1]:.4f}")

rate = np.exp(model.predict(x, verbose=0))
print(f"final loss: {losses[-1]:.4f}")
print(f"mean absolute error: {np.mean(np.abs(rate - y)):.3f}")
