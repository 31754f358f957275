# expect: healthy
"""Logistic regression in a plain eager loop with a hand-written update."""

import tensorflow as tf
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

X, y = load_breast_cancer(return_X_y=True)
X = tf.constant(scale(X), tf.float32)
y = tf.constant(y, tf.float32)
w = tf.Variable(tf.zeros([30, 1]))
b = tf.Variable(0.0)

for epoch in range(3):
    for i in range(0, 512, 64):
        with tf.GradientTape() as tape:
            logits = tf.squeeze(X[i : i + 64] @ w, 1) + b
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y[i : i + 64], logits))
        dw, db = tape.gradient(loss, [w, b])
        w.assign_sub(0.1 * dw)
        b.assign_sub(0.1 * db)
    print(epoch, float(loss))
