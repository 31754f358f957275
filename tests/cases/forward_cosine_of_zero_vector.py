# expect: step=1 born_in=forward op=RealDiv forward_op=null cause=div_by_zero rows=4
"""Cosine similarity written by hand in a plain eager loop; a user without ratings is a zero vector."""

import numpy as np
import tensorflow as tf

rng = np.random.RandomState(43)
ratings = rng.randint(0, 6, size=(60, 12)).astype(np.float32)
ratings[24] = 0.0
items = rng.rand(60, 12).astype(np.float32)
liked = rng.rand(60).astype(np.float32)

projection = tf.Variable(tf.random.stateless_uniform([12, 6], seed=[4, 3]))
adam = tf.keras.optimizers.Adam(0.01)


def cosine(a, b):
    dot = tf.reduce_sum(a * b, axis=1)
    lengths = tf.sqrt(tf.reduce_sum(a * a, axis=1)) * tf.sqrt(tf.reduce_sum(b * b, axis=1))
    return dot / lengths  # NG105 here


for epoch in range(2):
    for first in range(0, 60, 20):
        batch = slice(first, first + 20)
        with tf.GradientTape() as tape:
            similarity = cosine(ratings[batch] @ projection, items[batch] @ projection)
            loss = tf.reduce_mean(tf.abs(similarity - liked[batch]))
        adam.apply_gradients([(tape.gradient(loss, projection), projection)])
        print(epoch, first, loss.numpy())
