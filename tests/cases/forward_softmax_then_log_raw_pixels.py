# expect: step=0 born_in=forward op=Log forward_op=null cause=softmax_then_log short=1
"""The classic TensorFlow 1 tutorial loss, with pixels from 0 to 255 and large initial weights."""

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

tf.random.set_seed(1)
images, labels = load_digits(return_X_y=True)
images = (images * 255.0 / 16.0).astype(np.float32)
onehot = np.eye(10, dtype=np.float32)[labels]

W = tf.Variable(tf.random.stateless_normal([64, 10], seed=(0, 1)))
b = tf.Variable(tf.zeros([10]))


@tf.function
def step(x, y_):
    with tf.GradientTape() as tape:
        y = tf.nn.softmax(tf.matmul(x, W) + b)
        cross_entropy = tf.reduce_mean(-tf.reduce_sum(y_ * tf.math.log(y), axis=[1]))  # NG103 here
    dW, db = tape.gradient(cross_entropy, [W, b])
    W.assign_sub(0.01 * dW)
    b.assign_sub(0.01 * db)
    return cross_entropy


for i in range(5):
    print(i, step(images[i * 100 : (i + 1) * 100], onehot[i * 100 : (i + 1) * 100]).numpy())
