"""Focal losses against the formula in many digits, at saturated predictions and at labels that are no class."""

from __future__ import annotations

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


def exact(p, gamma):
    return -((1 - p) ** gamma) * mpmath.log(p)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("from_logits", [True, False])
def test_value_and_slope_of_sigmoid_focal_are_those_of_the_formula(gamma, from_logits):
    """To within 1e-5 of the exact ones, for soft targets too."""
    x = (RNG.normal(size=40) * 3 if from_logits else RNG.random(40)).astype("float32")
    t = RNG.random(40).astype("float32")

    def value(x, t):
        p = 1 / (1 + mpmath.exp(-x)) if from_logits else x
        return 0.25 * t * exact(p, gamma) + 0.75 * (1 - t) * exact(1 - p, gamma)

    def loss(x):
        return losses.sigmoid_focal(t[:, None], x[:, None], gamma=gamma, from_logits=from_logits)

    with mpmath.workdps(30):
        wanted = [float(value(mpmath.mpf(float(a)), float(b))) for a, b in zip(x, t, strict=True)]
        slopes = [float(mpmath.diff(lambda z, b=b: value(z, float(b)), float(a))) for a, b in zip(x, t, strict=True)]
    np.testing.assert_allclose(loss(x), wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient(loss, x), slopes, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_value_and_slope_of_softmax_focal_are_those_of_the_formula(gamma):
    """From class numbers and from one-hot targets, from logits and from probabilities."""
    z = RNG.normal(size=(20, 4)) * 2
    labels = RNG.integers(0, 4, 20)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    own = p[np.arange(20), labels]
    wanted = -((1 - own) ** gamma) * np.log(own)
    one_hot = np.eye(4)[labels]
    for y_true, y_pred, from_logits in [(labels, z, True), (one_hot, z, True), (labels, p, False), (one_hot, p, False)]:
        got = losses.softmax_focal(y_true, y_pred, gamma=gamma, from_logits=from_logits)
        np.testing.assert_allclose(got, wanted, rtol=1e-9)
    log_slope = -((1 - own) ** gamma) * (1 - gamma * own * np.log(own) / (1 - own))
    slopes = log_slope[:, None] * (one_hot - p)
    for y_true in (labels, one_hot):
        got = gradient(lambda x, y=y_true: losses.softmax_focal(y, x, gamma=gamma), z)
        np.testing.assert_allclose(got, slopes, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_saturated_wrong_prediction_teaches(gamma):
    """Its slope is not 0, points the right way, and has a finite square; a right one's is finite too."""
    p = np.array([[0.0], [1.0], [0.0], [1.0]], "float32")
    t = np.array([[1.0], [0.0], [0.0], [1.0]], "float32")
    slopes = gradient(lambda x: losses.sigmoid_focal(t, x, gamma=gamma, from_logits=False), p)[:, 0]
    assert slopes[0] < -1e6
    assert slopes[1] > 1e6
    assert np.all(np.abs(slopes) < 1e8)
    slopes = gradient(lambda x: losses.softmax_focal([1, 0], x, gamma=gamma), np.array([[1e30, 0], [1, 1]], "float32"))
    assert slopes[0, 1] == -1


def test_labels_that_are_no_class_raise_in_eager_mode_and_count_0_in_a_graph():
    """The message names labels and rows; in a graph the gradient is 0, with and without XLA."""
    logits, labels = np.zeros((3, 4), "float32"), [1, -1, 255]
    with pytest.raises(ValueError, match=r"from 0 to 3.*-1, 255 at 1, 2"):
        losses.softmax_focal(labels, logits)
    for jit in (False, True):

        @tf.function(jit_compile=jit)
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                values = losses.softmax_focal(tf.constant(labels), x)
            return values, tape.gradient(values, x)

        values, slopes = step(tf.constant(logits))
        assert np.all(values[1:] == 0)
        assert values[0] > 0
        assert not np.any(slopes[1:])


@pytest.mark.parametrize(("argument", "value"), [("gamma", -1.0), ("alpha", 1.5)])
def test_arguments_out_of_range_are_refused(argument, value):
    """The message names the argument."""
    for loss in (losses.sigmoid_focal, losses.softmax_focal):
        with pytest.raises(ValueError, match=argument):
            loss([[1.0]], [[1.0]], **{argument: value})


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.5, 2.0, 2.2, 3.0])
def test_a_power_of_a_tiny_probability_has_its_digits(gamma):
    """At any focus the loss of a confident right logit is near the formula in many digits."""
    logits = RNG.normal(-8, 8, (200, 1)).astype("float32")
    values = losses.sigmoid_focal(np.zeros_like(logits), logits, alpha=None, gamma=gamma).numpy()
    for value, z in zip(values.tolist(), logits[:, 0].tolist(), strict=True):
        right = mpmath.power(1 / (1 + mpmath.exp(-z)), gamma) * mpmath.log1p(mpmath.exp(z))
        assert right < 1e-35 or abs(value / right - 1) < 2e-6
