"""A critic's losses, with the tape of second order that its penalty needs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

RNG = np.random.default_rng(0)


def test_wasserstein_is_minus_target_times_score():
    """The slope is minus the target."""
    score = tf.constant([[2.0, -1.0]])
    with tf.GradientTape() as tape:
        tape.watch(score)
        value = losses.wasserstein([[1.0, -1.0]], score)
    np.testing.assert_array_equal(value, [-1.5])
    np.testing.assert_array_equal(tape.gradient(value, score), [[-0.5, 0.5]])


def test_the_penalty_is_the_square_of_norm_less_target():
    """Of a linear critic, whose gradient is its weights; a smaller norm costs nothing if one-sided."""
    weights = np.array([[3.0], [4.0]], "float32")
    real, fake = RNG.normal(size=(2, 5, 2)).astype("float32")
    np.testing.assert_allclose(losses.gradient_penalty(lambda x: x @ weights, real, fake), np.full(5, 16.0), rtol=1e-5)
    got = losses.gradient_penalty(lambda x: x @ weights, real, fake, target=6.0, one_sided=True)
    np.testing.assert_array_equal(got, np.zeros(5))


def test_the_points_lie_between_real_and_generated():
    """`alpha` is the share of the real sample."""
    seen = []

    def critic(x):
        seen.append(x)
        return tf.reduce_sum(x, axis=-1)

    losses.gradient_penalty(critic, [[1.0], [1.0]], [[0.0], [0.0]], alpha=[0.25, 1.0])
    np.testing.assert_array_equal(seen[0], [[0.25], [1.0]])


@pytest.mark.parametrize("jit", [False, True])
def test_a_flat_critic_does_not_make_its_weights_nan(jit):
    """Where the plain norm gives NaN for all weights, the critic is left as it is and learns from the next batch."""
    critic = keras.Sequential([keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
    critic.build((None, 3))
    critic.layers[0].bias.assign(np.full(4, -100.0))
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(critic.trainable_variables)

    @tf.function(jit_compile=jit)
    def step(real, fake):
        with tf.GradientTape() as tape:
            penalty = tf.reduce_mean(losses.gradient_penalty(critic, real, fake, seed=1))
        weights = [variable.value for variable in critic.trainable_variables]
        return penalty, tape.gradient(penalty, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    real, fake = RNG.normal(size=(2, 8, 3)).astype("float32")
    penalty, slopes = step(real, fake)
    assert penalty == 1
    optimizer.apply(slopes)
    assert all(np.all(np.isfinite(weight)) for weight in critic.get_weights())
    critic.layers[0].bias.assign(np.full(4, 1.0))
    assert any(np.any(slope) for slope in step(real, fake)[1])
