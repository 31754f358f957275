"""Classifies tumours in mixed precision.

The cured twin of `breast_cancer_float16_nan.py`, whose safety epsilon of 1e-8 is 0 in float16.

Changed: the epsilon is 1e-4, which float16 can tell from 0 (its smallest normal number is 6.1e-5).
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

EPSILON = 1e-4

keras.utils.set_random_seed(13)
keras.mixed_precision.set_global_policy("mixed_float16")


class Shares(keras.layers.Layer):
    """Turns non-negative activations into shares of their sum, row by row."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Gives the shares; they add up to 1 in every row that has an active unit."""
        total = tf.reduce_sum(inputs, axis=-1, keepdims=True)
        return inputs / (total + EPSILON)


tumours, is_benign = load_breast_cancer(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
    tumours.astype("float32"), is_benign.astype("float32"), test_size=0.25, random_state=13
)
scaler = StandardScaler()
x_train = scaler.fit_transform(x_train)
x_test = scaler.transform(x_test)

model = keras.Sequential(
    [
        keras.Input((30,)),
        keras.layers.Dense(8, activation="relu"),
        Shares(),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(1, dtype="float32"),  # the loss wants float32
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(0.01),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
)

history = model.fit(x_train, y_train, batch_size=32, epochs=15, verbose=2)
_, accuracy = model.evaluate(x_test, y_test, verbose=0)

print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test accuracy: {accuracy:.3f}")
