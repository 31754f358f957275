"""Predicts the progression of diabetes as a count, and goes NaN where the predicted rate falls below zero.

The Poisson negative log-likelihood asks for the logarithm of the rate. The last layer is linear, so nothing holds the
rate above zero, and the first patient for whom it is negative makes the loss NaN. The gradient, `1 - count / rate`, is
finite there and pushes the rate further down, so the weights stay numbers and the model learns the opposite.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_diabetes

BATCH_SIZE = 64
EPOCHS = 30

keras.utils.set_random_seed(21)


def poisson_nll(count: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood of a count under a Poisson distribution, without the constant log(count!)."""
    return tf.reduce_mean(rate - count * tf.math.log(rate))


# Ten standardised measurements of 442 patients; the target is a score from 25 to 346.
measurements, score = load_diabetes(return_X_y=True)
x = (measurements / measurements.std(axis=0)).astype("float32")
y = (score / 10.0).round().astype("float32")[:, None]

model = keras.Sequential(
    [
        keras.Input((x.shape[1],)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(1, name="rate"),
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

rate = model.predict(x, verbose=0)
print(f"final loss: {losses[-1]:.4f}")
print(f"mean absolute error: {np.mean(np.abs(rate - y)):.3f}")
