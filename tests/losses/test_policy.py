"""PPO's surrogate against its formula, and where the ratio overflows."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

RNG = np.random.default_rng(0)


def surrogate(advantage, old, new, clip=0.2):
    ratio = np.exp(new - old)
    return -np.minimum(ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage)


def value_and_slope(y_true, y_pred, **arguments):
    y_pred = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = losses.ppo(y_true, y_pred, **arguments)
    return value.numpy(), tape.gradient(value, y_pred).numpy()


def test_ppo_is_the_clipped_surrogate():
    """Its slope is that of the formula: 0 where the clip holds."""
    advantage, old, new = RNG.normal(size=(3, 200))
    value, slope = value_and_slope(np.stack([advantage, old], -1), new)
    np.testing.assert_allclose(value, surrogate(advantage, old, new), rtol=1e-12)
    step = 1e-6
    difference = surrogate(advantage, old, new + step) - surrogate(advantage, old, new - step)
    np.testing.assert_allclose(slope, difference / (2 * step), rtol=1e-5, atol=1e-8)


def test_an_action_that_became_far_too_likely_is_pushed_down():
    """A ratio beyond the largest number has a finite loss, and a slope whose square is finite."""
    value, slope = value_and_slope([[-1.0, -500.0], [1.0, -500.0]], [0.0, 0.0])
    assert 1e38 < value[0] < np.inf
    assert 0 < slope[0] ** 2 < np.inf
    np.testing.assert_allclose([value[1], slope[1]], [-1.2, 0])


def test_dual_clip_bounds_the_loss_of_a_bad_action():
    """At `dual_clip` times the advantage."""
    value, slope = value_and_slope([[-2.0, -5.0], [-2.0, -0.5]], [[0.0], [0.0]], dual_clip=3.0)
    np.testing.assert_allclose(value, [6.0, 2 * np.exp(0.5)], rtol=1e-6)
    assert slope[0, 0] == 0 < slope[1, 0]


@pytest.mark.parametrize(("argument", "value"), [("clip_ratio", 0.0), ("dual_clip", 1.0)])
def test_arguments_out_of_range_are_refused(argument, value):
    """The message names the argument."""
    with pytest.raises(ValueError, match=argument):
        losses.ppo([[1.0, 0.0]], [0.0], **{argument: value})
