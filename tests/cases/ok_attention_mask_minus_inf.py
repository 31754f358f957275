# expect: healthy short=1
"""-inf in the attention mask, with at least one position open in every row."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(401)
rng = np.random.default_rng(401)
ids = rng.integers(1, 30, (96, 8))
for row, length in enumerate(rng.integers(1, 8, 96)):
    ids[row, length:] = 0
label = rng.integers(0, 2, 96).astype("float32")


class Pool(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.score = keras.layers.Dense(1)

    def call(self, x, keep):
        scores = tf.where(keep, self.score(x)[..., 0], -np.inf)
        weights = tf.nn.softmax(scores, axis=-1)
        return tf.reduce_sum(x * weights[..., None], axis=1)


words = keras.Input((8,), dtype="int32")
pooled = Pool()(keras.layers.Embedding(30, 8)(words), words > 0)
model = keras.Model(words, keras.layers.Dense(1)(pooled))
model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(ids, label, batch_size=16, epochs=3, verbose=2)
