# expect: step=2 born_in=forward op=Max|Min forward_op=null cause=empty_reduction rows=null
"""Hardest negative of the batch for a margin loss; a batch of one class has no negatives, and their maximum is -inf."""

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_iris

X, y = load_iris(return_X_y=True)
X = tf.constant((X - X.mean(0)) / X.std(0), tf.float32)
y = tf.constant(y)

w = tf.Variable(tf.random.stateless_normal([4, 1], seed=(6, 2)))
adam = tf.keras.optimizers.Adam(0.01)
batches = [np.r_[0:10, 50:60], np.r_[10:20, 100:110], np.r_[100:120], np.r_[20:30, 60:70]]


def margin_loss(x, labels):
    score = tf.squeeze(x @ w, 1)
    positives = tf.boolean_mask(score, labels == 2)
    negatives = tf.boolean_mask(score, labels != 2)
    hardest = tf.reduce_max(negatives)  # NG501 here
    return tf.reduce_sum(tf.square(1.0 + hardest - positives)) + 0.01 * tf.reduce_sum(tf.square(hardest))


for epoch in range(2):
    for index in batches:
        with tf.GradientTape() as tape:
            loss = margin_loss(tf.gather(X, index), tf.gather(y, index))
        adam.apply([tape.gradient(loss, w)], [w])
        print(float(loss))
