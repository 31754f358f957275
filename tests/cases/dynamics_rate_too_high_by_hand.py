# expect: step=21|22 born_in=divergence cause=lr_too_high
"""Linear regression by hand: the step is three times larger than the curvature allows."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(302)
X = tf.constant(rng.normal(size=(200, 6)), tf.float32)
true_w = tf.constant(rng.normal(size=(6, 1)), tf.float32)
y = X @ true_w + 0.1 * tf.constant(rng.normal(size=(200, 1)), tf.float32)


class Linear(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.zeros([6, 1]), name="w")
        self.b = tf.Variable(0.0, name="b")

    def __call__(self, x):
        return x @ self.w + self.b


model = Linear()


@tf.function
def train(x, y, learning_rate):
    with tf.GradientTape() as t:
        current_loss = tf.reduce_mean(tf.square(model(x) - y))
    dw, db = t.gradient(current_loss, [model.w, model.b])
    model.w.assign_sub(learning_rate * dw)
    model.b.assign_sub(learning_rate * db)
    return current_loss


for epoch in range(60):
    loss = train(X, y, learning_rate=3.0)
    if epoch % 5 == 0:
        print(epoch, loss.numpy())
