# expect: healthy
"""sqrt at 0 behind tf.where: the gradient that comes in is 0, and TensorFlow's SqrtGrad keeps it 0."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(222)
x = rng.normal(0, 1, (160, 5)).astype("float32")
x[95, :] = 0.0
y = rng.normal(size=(160, 1)).astype("float32")

w = tf.Variable(tf.random.stateless_normal([5, 1], seed=(2, 22)))
optimizer = tf.keras.optimizers.Adam(0.01)
optimizer.build([w])


def signed_sqrt(z):
    return tf.where(z > 0, tf.sqrt(tf.nn.relu(z)), z)


@tf.function
def train(dataset):
    loss = 0.0
    for xb, yb in dataset:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(signed_sqrt(xb @ w) - yb))
        gradient = tape.gradient(loss, w)
        optimizer.apply_gradients([(gradient, w)])
    return loss


print(train(tf.data.Dataset.from_tensor_slices((x, y)).batch(16)).numpy())
