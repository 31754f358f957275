# expect: step=1 born_in=forward op=Exp forward_op=null cause=exp_overflow
"""PPO on unnormalised states: exp(new_logp - old_logp) overflows for actions the old policy held impossible."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(93)
rng = np.random.default_rng(93)

policy = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
value = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)])
policy_optimizer = keras.optimizers.Adam(0.1)
value_optimizer = keras.optimizers.Adam(0.01)


def log_prob(states, actions):
    logits = policy(states, training=True)
    return tf.reduce_sum(tf.nn.log_softmax(logits) * tf.one_hot(actions, 3), axis=-1)


@tf.function
def train_policy(states, actions, old_log_prob, advantages):
    with tf.GradientTape() as tape:
        ratio = tf.exp(log_prob(states, actions) - old_log_prob)  # NG201 here
        clipped = tf.clip_by_value(ratio, 0.8, 1.2)
        loss = -tf.reduce_mean(tf.minimum(ratio * advantages, clipped * advantages))
    grads = tape.gradient(loss, policy.trainable_variables)
    policy_optimizer.apply_gradients(zip(grads, policy.trainable_variables))
    return loss


@tf.function
def train_value(states, returns):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(returns - value(states, training=True)[:, 0]))
    grads = tape.gradient(loss, value.trainable_variables)
    value_optimizer.apply_gradients(zip(grads, value.trainable_variables))
    return loss


for iteration in range(8):
    states = tf.constant(rng.normal(0, 200, (32, 4)), tf.float32)
    actions = tf.constant(rng.integers(0, 3, 32))
    returns = tf.constant(rng.normal(0, 100, 32), tf.float32)
    old = log_prob(states, actions)
    advantages = returns - value(states)[:, 0]
    for _ in range(10):
        policy_loss = train_policy(states, actions, old, advantages)
    value_loss = train_value(states, returns)
    print(iteration, float(policy_loss), float(value_loss))
