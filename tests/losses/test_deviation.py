"""The root of the mean square, and quantiles."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

RNG = np.random.default_rng(0)


def test_root_mean_squared_error_has_gradient_0_at_a_perfect_prediction():
    """Elsewhere it is that of the formula."""
    t, p = RNG.normal(size=(2, 4, 5))
    p[1] = t[1]
    prediction = tf.constant(p)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        value = losses.root_mean_squared_error(t, prediction)
    wanted = np.sqrt(((t - p) ** 2).mean(-1))
    np.testing.assert_allclose(value, wanted, rtol=1e-12)
    slopes = (p - t) / (5 * np.where(wanted > 0, wanted, 1))[:, None]
    np.testing.assert_allclose(tape.gradient(value, prediction), slopes, rtol=1e-12)


def test_errors_whose_squares_overflow_or_vanish_have_their_root():
    """In float32 and in float16."""
    got = losses.root_mean_squared_error(
        np.zeros((2, 2), "float32"), np.array([[3e30, 4e30], [3e-30, 4e-30]], "float32")
    )
    np.testing.assert_allclose(got, [5e30 / 2**0.5, 5e-30 / 2**0.5], rtol=1e-6)
    assert losses.root_mean_squared_error(np.zeros((1, 2), "float16"), np.array([[3e4, 4e4]], "float16"))[0] == 35360


def test_one_quantile_is_the_pinball_loss():
    """`q` times the error where the prediction is too low, `1 - q` where it is too high."""
    np.testing.assert_allclose(losses.quantile([[1.0], [0.0]], [[0.0], [1.0]], 0.9), [0.9, 0.1], rtol=1e-6)
    assert losses.quantile([[1.0, 1.0]], [[0.0, 0.0]]).numpy() == 0.5


@pytest.mark.parametrize("target", [(6, 1), (6,)])
def test_many_quantiles_are_on_the_last_axis(target):
    """The mean over them is that of each alone."""
    quantiles = (0.1, 0.5, 0.9)
    t, p = RNG.normal(size=target), RNG.normal(size=(6, 3))
    each = [losses.quantile(t.reshape(6, 1), p[:, [i]], q) for i, q in enumerate(quantiles)]
    np.testing.assert_allclose(losses.quantile(t, p, quantiles), np.mean(each, 0), rtol=1e-12)


@pytest.mark.parametrize("quantiles", [0.0, 1.0, (0.5, 1.5), ()])
def test_quantiles_outside_0_and_1_are_refused(quantiles):
    """The message names the argument."""
    with pytest.raises(ValueError, match="quantiles"):
        losses.quantile([[1.0]], [[1.0]], quantiles)
