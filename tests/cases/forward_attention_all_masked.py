# expect: step=3 born_in=forward op=Softmax forward_op=null cause=all_masked_softmax rows=0,5 dataset_rows=48,53 short=1
"""Self-attention with a -inf padding mask; two sentences are empty, so that every key is masked."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(71)
rng = np.random.default_rng(71)

ids = rng.integers(1, 40, (96, 9))
for row, length in enumerate(rng.integers(2, 9, 96)):
    ids[row, length:] = 0
ids[[48, 53]] = 0
label = rng.integers(0, 3, 96)


class Attention(keras.layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.query = keras.layers.Dense(units)
        self.key = keras.layers.Dense(units)
        self.value = keras.layers.Dense(units)

    def call(self, x, padding):
        scores = tf.matmul(self.query(x), self.key(x), transpose_b=True) / 4.0
        scores = tf.where(padding[:, tf.newaxis, :], -np.inf, scores)
        weights = tf.nn.softmax(scores, axis=-1)  # NG502 here
        return tf.matmul(weights, self.value(x))


class Reader(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(40, 16)
        self.attention = Attention(16, name="attention")
        self.out = keras.layers.Dense(3)

    def call(self, ids):
        context = self.attention(self.embed(ids), tf.equal(ids, 0))
        return self.out(tf.reduce_mean(context, axis=1))


model = Reader()
model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(ids, label, batch_size=16, epochs=2, shuffle=False, verbose=2)
