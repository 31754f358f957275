"""Reads digits by attention over their inked rows.

The cured twin of `digits_attention_nan.py`, whose softmax is NaN where every row of a quarter is masked.

Changed: the softmax is nanguard's and takes the mask itself. The weight of a blank row is exactly 0, also in a quarter
that has no other.
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import nanguard as ng

keras.utils.set_random_seed(10)


class AttentionPooling(keras.layers.Layer):
    """Weighs the rows of a quarter by learnt scores and adds them up; blank rows have no weight."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.value = keras.layers.Dense(units, activation="relu")
        self.score = keras.layers.Dense(1)

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Pools `(batch, quarter, row, pixel)` to `(batch, quarter, units)`."""
        has_ink = tf.reduce_any(rows > 0.0, axis=-1)
        scores = tf.squeeze(self.score(self.value(rows)), axis=-1)
        weights = ng.ops.softmax(scores, axis=-1, mask=has_ink)
        return tf.reduce_sum(weights[..., None] * self.value(rows), axis=-2)


images, labels = load_digits(return_X_y=True)
quarters = (images / 16.0).reshape(-1, 2, 4, 2, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 4, 4, 4)
x = quarters.astype("float32")

inputs = keras.Input(x.shape[1:])
pooled = keras.layers.Flatten()(AttentionPooling(64)(inputs))
hidden = keras.layers.Dense(64, activation="gelu")(pooled)
outputs = keras.layers.Dense(10)(hidden)
model = keras.Model(inputs, outputs)
model.compile(
    optimizer=keras.optimizers.Adam(0.01),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

num_train = 1400
history = model.fit(x[:num_train], labels[:num_train], batch_size=64, epochs=15, shuffle=False, verbose=2)
_, accuracy = model.evaluate(x[num_train:], labels[num_train:], verbose=0)

print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test accuracy: {accuracy:.3f}")
