# expect: step=89|90|91 born_in=forward op=Exp forward_op=null cause=exp_overflow
"""Gaussian policy with a free log-std; a large entropy bonus drives it up step by step until exp(log_std) overflows."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

keras.utils.set_random_seed(94)
rng = np.random.default_rng(94)


class GaussianPolicy(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = keras.layers.Dense(8, activation="tanh")
        self.mu = keras.layers.Dense(1)
        self.log_std = self.add_weight(shape=(1,), initializer="zeros", name="log_std")

    def call(self, state):
        return self.mu(self.body(state)), self.log_std


actor = GaussianPolicy()
optimizer = keras.optimizers.Adam(learning_rate=1.0)


@tf.function(jit_compile=True)
def train_on(state, action, advantage):
    with tf.GradientTape() as tape:
        mu, log_std = actor(state)
        std = ops.exp(log_std)  # NG201 here
        logp = -0.5 * ops.square((action - mu) / std) - log_std
        entropy = ops.sum(log_std)
        loss = -ops.mean(logp * advantage) - 5.0 * entropy
    optimizer.apply_gradients(zip(tape.gradient(loss, actor.trainable_variables), actor.trainable_variables))
    return loss


for step in range(110):
    state = rng.normal(size=(16, 3)).astype("float32")
    action = rng.normal(size=(16, 1)).astype("float32")
    advantage = rng.normal(size=(16, 1)).astype("float32")
    loss = train_on(tf.constant(state), tf.constant(action), tf.constant(advantage))
    if step % 10 == 0:
        print(step, float(loss))
