# expect: step=6 born_in=forward op=Mean forward_op=null cause=empty_reduction rows=null
"""Localisation loss over the positive anchors; the last batch holds none."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(61)
rng = np.random.default_rng(61)

anchors = rng.normal(size=(104, 6)).astype("float32")
offsets = rng.normal(size=(104, 2)).astype("float32")
positive = rng.uniform(size=104) < 0.4
positive[96:] = False

head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(12, activation="relu"), keras.layers.Dense(2)])
optimizer = keras.optimizers.Adam(1e-3)


@tf.function(reduce_retracing=True)
def train_step(x, offset, is_positive):
    with tf.GradientTape() as tape:
        error = tf.abs(head(x, training=True) - offset)
        loss = tf.reduce_mean(tf.boolean_mask(error, is_positive))  # NG501 here
    grads = tape.gradient(loss, head.trainable_variables)
    optimizer.apply_gradients(zip(grads, head.trainable_variables))
    return loss


for batch in tf.data.Dataset.from_tensor_slices((anchors, offsets, positive)).batch(16):
    print(train_step(*batch).numpy())
