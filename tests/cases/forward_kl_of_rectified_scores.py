# expect: step=0 born_in=forward op=Log forward_op=null cause=log_of_zero short=1
"""Topic shares from rectified scores that are divided by their sum; a share of exactly 0 goes into the logarithm."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(31)
rng = np.random.default_rng(31)

documents = rng.poisson(1.0, (128, 20)).astype("float32")
topics = rng.dirichlet(np.ones(5), 128).astype("float32")


class Shares(keras.layers.Layer):
    """Turns scores into shares that sum to 1."""

    def call(self, scores):
        positive = tf.nn.relu(scores) + 1e-3 * tf.reduce_mean(tf.abs(scores))  # keeps the sum above 0
        return tf.nn.relu(scores) / tf.reduce_sum(positive, axis=-1, keepdims=True)


model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5), Shares()])
optimizer = keras.optimizers.Adam(1e-2)


@tf.function
def train_step(x, target):
    with tf.GradientTape() as tape:
        share = model(x, training=True)
        divergence = tf.reduce_sum(
            target
            * (tf.math.log(target + 1e-7) - tf.math.log(share)),  # NG101 here
            axis=-1,
        )
        loss = tf.reduce_mean(divergence)
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))
    return loss


for i in range(0, 128, 32):
    print(train_step(documents[i : i + 32], topics[i : i + 32]).numpy())
