# expect: step=1 born_in=data|forward cause=label_out_of_range rows=3,14
"""Unlabelled samples carry the class -1; the step is compiled with XLA."""

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_iris

tf.random.set_seed(3)

data, target = load_iris(return_X_y=True)
order = np.random.RandomState(0).permutation(150)
data, target = data[order].astype(np.float32), target[order].astype(np.int32)
target[[16 + 3, 16 + 14]] = -1

kernel = tf.Variable(tf.random.normal([4, 3], stddev=0.1))
bias = tf.Variable(tf.zeros([3]))
opt = tf.keras.optimizers.Adam(0.01)
opt.build([kernel, bias])


@tf.function(jit_compile=True)
def train_step(x, y):
    with tf.GradientTape() as tape:
        logits = tf.matmul(x, kernel) + bias
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    opt.apply_gradients(zip(tape.gradient(loss, [kernel, bias]), [kernel, bias]))
    return loss


for i in range(0, 144, 16):
    x, y = tf.constant(data[i : i + 16]), tf.constant(target[i : i + 16])
    loss = train_step(x, y)  # NG707 here
    print(i // 16, float(loss))
