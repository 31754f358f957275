# expect: step=0 born_in=forward op=Pow forward_op=null cause=div_by_zero
"""Graph convolution: D ** -0.5 of the degree matrix, with a node that has no edge."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(48)
rng = np.random.default_rng(48)
N = 24
adjacency = np.triu(rng.uniform(size=(N, N)) < 0.2, 1).astype("float32")
adjacency += adjacency.T
adjacency[8, :] = adjacency[:, 8] = 0.0
adjacency[np.arange(1, N), np.arange(N - 1)] = adjacency[np.arange(N - 1), np.arange(1, N)] = 1.0
adjacency[8, :] = adjacency[:, 8] = 0.0
nodes = tf.constant(rng.normal(size=(N, 6)), tf.float32)
labels = tf.constant(rng.integers(0, 2, N))


class GraphConvolution(keras.layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units, use_bias=False)
        self.gate = self.add_weight(shape=(), initializer="ones", name="gate")

    def call(self, x, a):
        degree = tf.reduce_sum(self.gate * a, axis=1)
        inverse_root = tf.pow(degree, -0.5)  # NG110 here
        propagated = inverse_root[:, None] * a * inverse_root[None, :]
        return tf.matmul(propagated, self.dense(x))


first, second = GraphConvolution(8), GraphConvolution(2)
optimizer = keras.optimizers.Adam(0.01)
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
edges = tf.constant(adjacency)

for epoch in range(3):
    with tf.GradientTape() as tape:
        logits = second(tf.nn.relu(first(nodes, edges)), edges)
        loss = loss_fn(labels, logits)
    variables = first.trainable_variables + second.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    print(epoch, float(loss))
