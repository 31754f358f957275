# expect: step=0 born_in=data|forward|update op=null cause=weights_already_nan rows=null
"""Fine-tuning from a checkpoint that an earlier, diverged run had left behind."""

import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(363)
rng = np.random.default_rng(363)


def build():
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(1)])


path = os.path.join(tempfile.mkdtemp(), "last.weights.h5")
earlier = build()
earlier.set_weights([np.full_like(w, np.nan) if w.shape == (6,) else w for w in earlier.get_weights()])
earlier.save_weights(path)

model = build()
model.load_weights(path)
optimizer = keras.optimizers.Adam(1e-4)


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
    optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
    return loss


for _ in range(4):
    batch = rng.normal(size=(16, 5)).astype("float32")
    loss = train_step(tf.constant(batch), tf.constant(batch[:, :1]))  # NG606 here
    print(loss.numpy())
