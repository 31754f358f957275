# expect: step=2 born_in=forward op=Softmax forward_op=null cause=fp16_range rows=4 dataset_rows=36
"""A document of padding only: with -1e9 in float32 its weights are 1/n, with float16's -inf they are NaN."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(105)
keras.mixed_precision.set_dtype_policy("mixed_float16")
rng = np.random.default_rng(105)

tokens = rng.integers(1, 30, (64, 8))
for row, length in enumerate(rng.integers(3, 8, 64)):
    tokens[row, length:] = 0
tokens[36] = 0
y = rng.normal(size=(64, 1)).astype("float32")


@keras.saving.register_keras_serializable(package="pool")
class AttentionPool(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.score = keras.layers.Dense(1)

    def call(self, x, keep):
        scores = self.score(x)[..., 0]
        masked = tf.where(keep, scores, tf.constant(-1e9, scores.dtype))
        return tf.reduce_sum(x * tf.nn.softmax(masked)[..., tf.newaxis], axis=1)  # NG401|NG502 here


ids = keras.Input((8,), dtype="int32")
pooled = AttentionPool()(keras.layers.Embedding(30, 8)(ids), ids > 0)
model = keras.Model(ids, keras.layers.Dense(1, dtype="float32")(pooled))
model.compile(optimizer=keras.optimizers.SGD(1e-2), loss="mae")
model.fit(tokens, y, batch_size=16, epochs=1, shuffle=False, verbose=2)
