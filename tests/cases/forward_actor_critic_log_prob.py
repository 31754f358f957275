# expect: step=1 born_in=forward op=Log forward_op=null cause=softmax_then_log
"""Actor-critic on a two-armed bandit with returns in the hundreds; the policy saturates and log(prob) follows."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(35)
rng = np.random.default_rng(35)

actor = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2, "softmax")])
critic = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
actor_optimizer = keras.optimizers.SGD(5.0)
critic_optimizer = keras.optimizers.Adam(1e-2)


@tf.function
def update(state, action, reward):
    with tf.GradientTape(persistent=True) as tape:
        probs = actor(state, training=True)
        value = tf.squeeze(critic(state, training=True), -1)
        advantage = reward - value
        entropy = -tf.reduce_sum(probs * tf.math.log(probs), axis=-1)  # NG103 here
        chosen = tf.reduce_sum(probs * tf.one_hot(action, 2), axis=-1)
        actor_loss = -tf.reduce_mean(tf.math.log(chosen + 1e-8) * tf.stop_gradient(advantage) + 0.01 * entropy)
        critic_loss = tf.reduce_mean(tf.square(advantage))
    actor_grads = tape.gradient(actor_loss, actor.trainable_variables)
    critic_grads = tape.gradient(critic_loss, critic.trainable_variables)
    actor_optimizer.apply_gradients(zip(actor_grads, actor.trainable_variables))
    critic_optimizer.apply_gradients(zip(critic_grads, critic.trainable_variables))
    return actor_loss, critic_loss


for episode in range(12):
    state = rng.normal(size=(16, 3)).astype("float32")
    action = rng.integers(0, 2, 16)
    reward = (np.where(action == 1, 500.0, 100.0) + rng.normal(size=16)).astype("float32")
    losses = update(tf.constant(state), tf.constant(action), tf.constant(reward))
    print(episode, [float(loss) for loss in losses])
