# expect: step=1 born_in=forward op=Exp forward_op=null cause=exp_overflow
"""exp(logits) / sum(exp(logits)) without subtracting the maximum, on unscaled wine measurements."""

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_wine

data, target = load_wine(return_X_y=True)
data = tf.constant(data, tf.float32)
onehot = tf.one_hot(target, 3)
order = np.random.default_rng(0).permutation(178)[:160].reshape(5, 32)

W = tf.Variable(tf.zeros([13, 3]))
b = tf.Variable(tf.zeros([3]))


def probabilities(x):
    e = tf.exp(tf.matmul(x, W) + b)  # NG201 here
    return e / tf.reduce_sum(e, axis=1, keepdims=True)


@tf.function
def update(x, y):
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(tf.reduce_sum(y * tf.math.log(probabilities(x) + 1e-10), axis=1))
    gW, gb = tape.gradient(loss, [W, b])
    W.assign_sub(0.01 * gW)
    b.assign_sub(0.01 * gb)
    return loss


for epoch in range(2):
    for rows in order:
        loss = update(tf.gather(data, rows), tf.gather(onehot, rows))
    print(epoch, float(loss))
