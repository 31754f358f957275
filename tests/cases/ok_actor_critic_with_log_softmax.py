# expect: healthy
"""Actor-critic in an eager loop with log_softmax; returns in the hundreds do no harm."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(419)
rng = np.random.default_rng(419)
actor = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
critic = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
actor_optimizer, critic_optimizer = keras.optimizers.SGD(0.5), keras.optimizers.Adam(1e-2)

for episode in range(8):
    state = tf.constant(rng.normal(size=(16, 3)), tf.float32)
    action = rng.integers(0, 2, 16)
    reward = tf.constant(np.where(action == 1, 500.0, 100.0), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        logp = tf.nn.log_softmax(actor(state))
        advantage = reward - critic(state)[:, 0]
        chosen = tf.reduce_sum(logp * tf.one_hot(action, 2), axis=1)
        entropy = -tf.reduce_sum(tf.exp(logp) * logp, axis=1)
        actor_loss = -tf.reduce_mean(chosen * tf.stop_gradient(advantage) / 100.0 + 0.01 * entropy)
        critic_loss = tf.reduce_mean(tf.square(advantage))
    for model, optimizer, loss in [(actor, actor_optimizer, actor_loss), (critic, critic_optimizer, critic_loss)]:
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
    del tape
    print(episode, float(actor_loss), float(critic_loss))
