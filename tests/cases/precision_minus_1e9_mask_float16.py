# expect: step=0 born_in=forward op=Mul forward_op=null cause=fp16_range rows=null
"""The additive padding mask of the tutorials: -1e9 is -inf in float16, and 0 * -inf is NaN."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(102)
keras.config.set_dtype_policy("mixed_float16")
rng = np.random.default_rng(102)

tokens = rng.integers(1, 30, (64, 8))
for row, length in enumerate(rng.integers(3, 8, 64)):
    tokens[row, length:] = 0
y = rng.normal(size=(64, 1)).astype("float32")


class AttentionPool(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.score = keras.layers.Dense(1)

    def call(self, x, keep):
        scores = self.score(x)[..., 0]
        padding = 1.0 - tf.cast(keep, scores.dtype)
        scores += padding * -1e9  # NG401 here
        weights = tf.nn.softmax(scores)
        return tf.reduce_sum(x * weights[..., tf.newaxis], axis=1)


ids = keras.Input((8,), dtype="int32")
pooled = AttentionPool()(keras.layers.Embedding(30, 8)(ids), ids > 0)
model = keras.Model(ids, keras.layers.Dense(1, dtype="float32")(pooled))
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
model.fit(tokens, y, batch_size=16, epochs=1, shuffle=False, verbose=2)
