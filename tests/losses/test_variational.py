"""The divergence of normal distributions and the bound that is made of it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

RNG = np.random.default_rng(0)


def divergence(mean, log_v, prior_mean=0.0, prior_log_v=0.0):
    change = log_v - prior_log_v
    return 0.5 * (np.exp(change) - 1 - change + (mean - prior_mean) ** 2 * np.exp(-prior_log_v)).sum(-1)


def test_normal_kl_is_the_divergence_from_the_prior():
    """From another distribution, and from the standard one if the targets are 0."""
    m, v, m0, v0 = RNG.normal(size=(4, 5, 3))
    y_pred = np.concatenate([m, v], -1)
    prior = np.concatenate([m0, v0], -1)
    np.testing.assert_allclose(losses.normal_kl(prior, y_pred), divergence(m, v, m0, v0), rtol=1e-12)
    for nothing in (0.0, np.zeros((5, 6))):
        np.testing.assert_allclose(losses.normal_kl(nothing, y_pred), divergence(m, v), rtol=1e-12)


def test_a_log_variance_that_ran_away_is_called_back():
    """At 1000 the divergence and the square of its slope are finite in float32, and the slope is positive."""
    y = tf.constant([[0.0, 1000.0]])
    with tf.GradientTape() as tape:
        tape.watch(y)
        value = losses.normal_kl(0.0, y)
    slope = tape.gradient(value, y)[0, 1]
    assert np.isfinite(value)
    assert 0 < slope**2 < np.inf


@pytest.mark.parametrize("reconstruction", ["bernoulli", "gaussian", losses.root_mean_squared_error])
def test_elbo_is_reconstruction_plus_divergence(reconstruction):
    """Summed over an image, with `beta` as the divergence's weight."""
    x, output = RNG.random((4, 3, 3, 1)), RNG.normal(size=(4, 3, 3, 1))
    m, v = RNG.normal(size=(2, 4, 5))
    if reconstruction == "bernoulli":
        errors = np.log1p(np.exp(output)) - x * output
    else:
        errors = 0.5 * (x - output) ** 2 if reconstruction == "gaussian" else np.abs(x - output)
    wanted = errors.sum((1, 2, 3)) + 3 * divergence(m, v)
    latent = np.concatenate([m, v], -1)
    np.testing.assert_allclose(losses.elbo(x, (output, latent), 3.0, reconstruction), wanted, rtol=1e-12)
    np.testing.assert_allclose(losses.ELBO(3.0, reconstruction)(x, (output, latent)), wanted.mean(), rtol=1e-5)


def test_another_reconstruction_is_refused():
    """The message says which there are."""
    with pytest.raises(ValueError, match="bernoulli, gaussian or a function"):
        losses.elbo([[0.0]], ([[0.0]], [[0.0, 0.0]]), reconstruction="laplace")
