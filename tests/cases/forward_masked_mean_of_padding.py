# expect: step=3 born_in=forward op=RealDiv forward_op=null cause=div_by_zero rows=7 dataset_rows=55 short=1
"""Mean of word vectors over the real words; one document is all padding."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(41)
rng = np.random.default_rng(41)

tokens = rng.integers(1, 50, (128, 12))
for row, length in enumerate(rng.integers(3, 12, 128)):
    tokens[row, length:] = 0
tokens[55] = 0
sentiment = rng.integers(0, 2, 128).astype("float32")


class MaskedAverage(keras.layers.Layer):
    def call(self, vectors, tokens):
        mask = tf.cast(tf.not_equal(tokens, 0), vectors.dtype)[..., tf.newaxis]
        total = tf.reduce_sum(vectors * mask, axis=1)
        count = tf.reduce_sum(mask, axis=1)
        return total / count  # NG105 here


words = keras.Input((12,), dtype="int32")
pooled = MaskedAverage(name="average")(keras.layers.Embedding(50, 8)(words), words)
model = keras.Model(words, keras.layers.Dense(1)(keras.layers.Dense(8, activation="relu")(pooled)))
model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
model.fit(tokens, sentiment, batch_size=16, epochs=2, shuffle=False, verbose=0)
