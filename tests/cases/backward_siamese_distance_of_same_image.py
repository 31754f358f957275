# expect: step=3 born_in=backward op=SqrtGrad forward_op=Sqrt cause=sqrt_norm_grad_at_zero rows=2 short=1
"""Contrastive loss on the Euclidean distance; one pair holds the same image twice."""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(201)

X, y = load_digits(return_X_y=True)
X = (X / 16.0).astype("float32")
rng = np.random.default_rng(201)
left = rng.permutation(128)
right = np.roll(left, 1)
right[3 * 16 + 2] = left[3 * 16 + 2]
same = (y[left] == y[right]).astype("float32")


class Siamese(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.layers.Dense(32, activation="relu"), keras.layers.Dense(8)])

    def call(self, pair):
        a, b = self.encoder(pair[0]), self.encoder(pair[1])
        return tf.sqrt(tf.reduce_sum((a - b) ** 2, axis=1))  # NG301 here


def contrastive(same, distance, margin=1.0):
    return tf.reduce_mean(same * distance + (1 - same) * tf.maximum(margin - distance, 0.0))


model = Siamese()
optimizer = keras.optimizers.Adam(1e-3)


@tf.function
def train_step(a, b, same):
    with tf.GradientTape() as tape:
        loss = contrastive(same, model((a, b)))
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))
    return loss


for i in range(0, 128, 16):
    part = slice(i, i + 16)
    print(float(train_step(X[left[part]], X[right[part]], same[part])))
