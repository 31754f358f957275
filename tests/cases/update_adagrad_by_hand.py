# expect: step=0 born_in=update op=RealDiv|Mul|Rsqrt cause=div_by_zero rows=null
"""Adagrad by hand without an epsilon: a word that does not occur has an accumulator of 0."""

import numpy as np
import tensorflow as tf

rng = np.random.default_rng(342)
table = tf.Variable(tf.random.stateless_normal([20, 4], seed=(3, 42)))
head = tf.Variable(tf.random.stateless_normal([4, 1], seed=(3, 43)))
parameters = [table, head]
accumulators = [tf.Variable(tf.zeros_like(p)) for p in parameters]
rate = 0.1

words = tf.constant(rng.integers(0, 12, (64, 5)))
score = tf.constant(rng.normal(size=(64, 1)), tf.float32)


@tf.function
def train_step(ids, target):
    one_hot = tf.one_hot(ids, 20)
    with tf.GradientTape() as tape:
        vectors = tf.reduce_mean(one_hot @ table, axis=1)
        loss = tf.reduce_mean(tf.square(vectors @ head - target))
    for p, a, g in zip(parameters, accumulators, tape.gradient(loss, parameters)):
        a.assign_add(tf.square(g))
        p.assign_sub(
            rate * g / tf.sqrt(a)  # NG608|NG105 here
        )
    return loss


for i in range(0, 64, 16):
    print(train_step(words[i : i + 16], score[i : i + 16]).numpy())
