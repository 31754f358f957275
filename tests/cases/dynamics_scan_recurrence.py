# expect: step=0 born_in=forward|divergence cause=exploding_rnn rows=null
"""A hand-written recurrence with tf.scan; the transition's spectral radius is about 2, and 300 steps are 2**300."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(312)
signal = tf.constant(rng.normal(size=(48, 300, 3)), tf.float32)
label = tf.constant(rng.normal(size=(48, 1)), tf.float32)

transition = tf.Variable(tf.random.stateless_normal([12, 12], seed=(3, 12)) * 0.6)
inward = tf.Variable(tf.random.stateless_normal([3, 12], seed=(3, 13)) * 0.1)
outward = tf.Variable(tf.random.stateless_normal([12, 1], seed=(3, 14)) * 0.1)
parameters = [transition, inward, outward]
optimizer = tf.keras.optimizers.RMSprop(1e-3)


def advance(state, x):
    return tf.nn.relu(state @ transition + x @ inward)  # NG602|NG202 here


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        states = tf.scan(advance, tf.transpose(x, [1, 0, 2]), initializer=tf.zeros([tf.shape(x)[0], 12]))
        loss = tf.reduce_mean(tf.square(states[-1] @ outward - y))
    optimizer.apply_gradients(zip(tape.gradient(loss, parameters), parameters))
    return loss


for i in range(3):
    print(train_step(signal[16 * i : 16 * i + 16], label[16 * i : 16 * i + 16]).numpy())
