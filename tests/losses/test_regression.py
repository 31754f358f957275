"""Losses of an error are right where Keras's own lose their digits, and bounded where the error overflows."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses

LARGEST = np.finfo("float32").max


def one_by_one(name: str, y_true: float, y_pred: np.ndarray) -> np.ndarray:
    """Gives the loss of each prediction alone."""
    column = y_pred.astype("float32")[:, None]
    return np.asarray(getattr(losses, name)(np.full_like(column, y_true), column)).astype("float64")


def test_log_cosh_is_right_near_0_and_far() -> None:
    """Errors from 1e-6 to 80 give the logarithm to nine units in the last place; Keras's own has none below 2e-4."""
    error = np.logspace(-6, 1.9, 2000).astype("float32").astype("float64")
    # cosh overflows nowhere here, and 1 + 2 * sinh(x / 2)**2 loses nothing near 0.
    exact = np.log1p(2 * np.sinh(error / 2) ** 2)
    ours = one_by_one("log_cosh", 0.0, error)
    assert np.max(np.abs(ours - exact) / np.spacing(exact.astype("float32"))) <= 9


def test_msle_is_right_near_0() -> None:
    """Small predictions give their logarithm to six units in the last place, where adding 1 first loses them."""
    prediction = np.logspace(-8, 3, 1000).astype("float32").astype("float64")
    exact = np.log1p(prediction) ** 2
    ours = one_by_one("mean_squared_logarithmic_error", 0.0, prediction)
    assert np.max(np.abs(ours - exact) / np.spacing(exact.astype("float32"))) <= 6


@pytest.mark.parametrize("name", ["mean_squared_error", "mean_absolute_error", "huber", "log_cosh"])
def test_an_error_that_overflows_is_cut(name: str) -> None:
    """Targets and predictions at the two ends of float32 give its largest number, with a slope of the right sign."""
    y_pred = tf.constant([[LARGEST], [-LARGEST]])
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        values = getattr(losses, name)(-y_pred, y_pred)
    slope = tape.gradient(values, y_pred).numpy()[:, 0]
    assert (values.numpy() == LARGEST).all()
    assert slope[0] > 0 > slope[1]


@pytest.mark.parametrize("name", ["mean_squared_logarithmic_error", "poisson"])
def test_what_is_below_its_domain_is_pulled_up(name: str) -> None:
    """A prediction below 0 has a slope upwards where the target is positive, and none where it is 0."""
    y_pred = tf.constant([[-2.0], [-2.0]])
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        values = getattr(losses, name)([[3.0], [0.0]], y_pred)
    slope = tape.gradient(values, y_pred).numpy()[:, 0]
    assert slope[0] < 0
    assert abs(slope[1]) < 1e-9


def test_a_delta_that_is_no_width_is_refused() -> None:
    """Huber's delta must be a positive number."""
    with pytest.raises(ValueError, match="`delta` must be positive"):
        losses.huber([[0.0]], [[1.0]], delta=0.0)


def test_a_cosine_is_right_at_any_length() -> None:
    """Vectors whose squares overflow, or vanish, have the cosine of their directions; one of 0 has 0 and can turn."""
    vectors = np.array([[3.0, 4.0], [3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]], "float32")
    y_pred = tf.constant(vectors)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        values = losses.cosine_similarity(np.array([[1e25, 0.0]] * 4, "float32"), y_pred)
    slope = tape.gradient(values, y_pred).numpy()
    np.testing.assert_allclose(values, [-0.6, -0.6, -0.6, 0.0], rtol=1e-6, atol=1e-7)
    assert slope[3, 0] < 0
    np.testing.assert_allclose(slope[0], [-0.128, 0.096], rtol=1e-5)
