"""Likelihoods against the densities of SciPy and of mpmath, and what their floors teach."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

RNG = np.random.default_rng(0)


def gradient(loss, prediction):
    prediction = tf.constant(prediction)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        total = tf.reduce_sum(loss(prediction))
    return tape.gradient(total, prediction).numpy()


def log_normal_density(t, mean, scale):
    return -0.5 * ((t - mean) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


def test_poisson_is_minus_the_logarithm_of_the_mass():
    """With `full`, exp(-rate) rate ** t / t!, from log rates and from rates."""
    t, x = RNG.poisson(3, (5, 6)).astype("float64"), RNG.normal(size=(5, 6))
    factorials = np.vectorize(math.lgamma)(t + 1)
    wanted = (np.exp(x) - t * x + factorials).mean(-1)
    np.testing.assert_allclose(losses.poisson_nll(t, x, full=True), wanted, rtol=1e-12)
    np.testing.assert_allclose(losses.poisson_nll(t, np.exp(x), log_input=False, full=True), wanted, rtol=1e-12)
    np.testing.assert_allclose(losses.poisson_nll(t, x), (np.exp(x) - t * x).mean(-1), rtol=1e-12)


def test_a_count_that_was_thought_impossible_teaches_the_rate():
    """A rate of 0 or below has the slope at the floor."""
    slopes = gradient(lambda r: losses.poisson_nll([[2.0], [2.0]], r, log_input=False), [[0.0], [-3.0]])
    assert np.all(slopes < -1e18)
    assert np.all(np.isfinite(np.square(slopes)))


@pytest.mark.parametrize("log_variance", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_gaussian_is_minus_the_logarithm_of_the_density(log_variance, beta):
    """With `full`; `beta` weighs it by a power of the variance that has no gradient."""
    t, mean, log_v = RNG.normal(size=(3, 5, 4))
    y_pred = np.concatenate([mean, log_v if log_variance else np.exp(log_v)], -1)
    weight = np.exp(beta * log_v)
    wanted = (weight * -log_normal_density(t, mean, np.exp(0.5 * log_v))).mean(-1)

    def loss(y):
        return losses.gaussian_nll(t, y, log_variance=log_variance, beta=beta, full=True)

    np.testing.assert_allclose(loss(y_pred), wanted, rtol=1e-12)
    slopes = gradient(loss, y_pred)
    np.testing.assert_allclose(slopes[:, :4], weight * (mean - t) * np.exp(-log_v) / 4, rtol=1e-9)
    of_log_v = weight * 0.5 * (1 - (t - mean) ** 2 * np.exp(-log_v)) / 4
    np.testing.assert_allclose(slopes[:, 4:], of_log_v if log_variance else of_log_v * np.exp(-log_v), rtol=1e-9)


def test_a_variance_that_collapsed_can_grow_again():
    """Below the floor the slope is that at the floor, for a target that is missed."""
    for log_variance, spread in ((True, -1e9), (False, 0.0), (False, -1.0)):
        slopes = gradient(lambda y, g=log_variance: losses.gaussian_nll([[1.0]], y, log_variance=g), [[0.0, spread]])
        assert slopes[0, 1] < -1e5


def test_targets_of_rank_1_meet_predictions_of_rank_2():
    """A value for each sample comes out, not one for each pair."""
    t = RNG.normal(size=5)
    np.testing.assert_array_equal(
        losses.gaussian_nll(t, np.zeros((5, 2))), losses.gaussian_nll(t[:, None], np.zeros((5, 2)))
    )
    np.testing.assert_array_equal(
        losses.mixture_density(t, np.zeros((5, 6)), 2), losses.mixture_density(t[:, None], np.zeros((5, 6)), 2)
    )


def test_beta_is_minus_the_logarithm_of_the_density_to_the_last_digit():
    """In float32, also where its parameters are a million and the terms cancel."""
    log_a, log_b = RNG.normal(size=(2, 50)).astype("float32") * 5
    t = RNG.uniform(0.01, 0.99, 50).astype("float32")

    def density(t, a, b):
        with mpmath.workdps(40):
            t, a, b = mpmath.mpf(float(t)), mpmath.exp(float(a)), mpmath.exp(float(b))
            log_beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
            return float(log_beta - (a - 1) * mpmath.log(t) - (b - 1) * mpmath.log(1 - t))

    wanted = [density(*each) for each in zip(t, log_a, log_b, strict=True)]
    np.testing.assert_allclose(losses.beta_nll(t[:, None], np.stack([log_a, log_b], -1)), wanted, rtol=2e-7)


def test_negative_binomial_is_minus_the_logarithm_of_the_mass_to_the_last_digit():
    """In float32, and nearly a Poisson distribution for a large shape."""
    log_m, log_r = RNG.normal(size=(2, 50)).astype("float32") * 4
    t = RNG.poisson(4, 50).astype("float32")

    def mass(t, m, r):
        with mpmath.workdps(40):
            t, m, r = mpmath.mpf(float(t)), mpmath.exp(float(m)), mpmath.exp(float(r))
            gammas = mpmath.loggamma(r) + mpmath.loggamma(t + 1) - mpmath.loggamma(t + r)
            return float(gammas + r * mpmath.log(1 + m / r) + t * mpmath.log(1 + r / m))

    wanted = [mass(*each) for each in zip(t, log_m, log_r, strict=True)]
    np.testing.assert_allclose(
        losses.negative_binomial_nll(t[:, None], np.stack([log_m, log_r], -1)), wanted, rtol=2e-7
    )
    nearly = losses.negative_binomial_nll(t[:, None], np.stack([log_m, np.full_like(log_m, 30)], -1))
    np.testing.assert_allclose(nearly, losses.poisson_nll(t[:, None], log_m[:, None], full=True), rtol=1e-3)


def test_mixture_density_is_minus_the_logarithm_of_the_mixed_densities():
    """With diagonal covariances; the packing is logits, means, logarithms of deviations."""
    t, logits = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 2))
    means, log_scales = RNG.normal(size=(2, 5, 2, 3))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    kernels = np.exp(log_normal_density(t[:, None], means, np.exp(log_scales)).sum(-1))
    wanted = -np.log((weights * kernels).sum(-1))
    y_pred = np.concatenate([logits, means.reshape(5, 6), log_scales.reshape(5, 6)], -1)
    np.testing.assert_allclose(losses.mixture_density(t, y_pred, components=2), wanted, rtol=1e-12)


def test_a_last_axis_that_cannot_be_divided_is_refused():
    """The message says how long it must be."""
    with pytest.raises(ValueError, match="2 equal parts"):
        losses.gaussian_nll([[0.0]], [[0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"2 \* \(1 \+ 2 \* 1\) = 6 numbers"):
        losses.mixture_density([[0.0]], [[0.0] * 5], components=2)
