"""Conditional means in TensorFlow against those of NumPy in float64, and what a graph makes of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from nanguard.clean import layer_ops
from nanguard.clean.gaussian import Gaussian, of_moments


def factors(noise: float) -> Any:
    """Gives rows of 30 columns that five hidden numbers make, and noise."""
    random = np.random.default_rng(0)
    return random.normal(size=(2000, 5)) @ random.normal(size=(5, 30)) + noise * random.normal(size=(2000, 30))


def copies() -> Any:
    """Gives rows of which one column is another once more, and one the sum of two."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(2000, 30)) + random.normal(size=(2000, 1))
    rows[:, 1] = rows[:, 0]
    rows[:, 3] = rows[:, 2] + rows[:, 4]
    return rows


def varying(rows: Any) -> Any:
    """Gives the columns that are not constant."""
    return rows[:, rows.std(0) > 0]


ROWS = {
    "factors": factors(1.0),
    "narrow factors": factors(0.1),
    "copies": copies(),
    "wine": load_wine().data,
    "breast cancer": load_breast_cancer().data,
    "digits": varying(load_digits().data),
}


def gaussian_of(rows: Any) -> Gaussian:
    """Gives the Gaussian of whole rows."""
    return of_moments(rows.mean(0), np.cov(rows.T, bias=True))


def normal_of(gaussian: Gaussian) -> layer_ops.Normal:
    """Gives it as the layer holds it."""
    parts = layer_ops.Normal.parts(gaussian.scale, gaussian.correlation)
    return layer_ops.Normal(mean=tf.constant(gaussian.mean), **{key: tf.constant(part) for key, part in parts.items()})


def steps_of(gaussian: Gaussian, **options: Any) -> layer_ops.Steps:
    """Gives steps that fill, and bound nothing."""
    size = len(gaussian.mean)
    given = {
        "low": tf.fill([size], tf.float64.min),
        "high": tf.fill([size], tf.float64.max),
        "fill": tf.constant(gaussian.mean),
        "sentinels": np.zeros((0, size)),
        "action": None,
        "clips_infinite": False,
        "normal": normal_of(gaussian),
        "dtype": tf.float32,
    }
    return layer_ops.Steps(**{**given, **options})


def traced(steps: layer_ops.Steps, **options: Any) -> Any:
    """Gives the steps as a graph."""

    def clean(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return layer_ops.clean(x, steps)

    return tf.function(clean, **options)


def holed(rows: Any, share: float) -> Any:
    """Gives rows with a share of their cells missing."""
    random = np.random.default_rng(2)
    return np.where(random.random(rows.shape) < share, np.nan, rows)


def errors(rows: Any, dtype: Any) -> Any:
    """Gives how many standard deviations the layer is off NumPy in float64."""
    gaussian = gaussian_of(rows)
    rows = rows[:400]
    worst = []
    for share in (0.05, 0.5):
        given = holed(rows, share).astype(dtype)
        found, is_missing = traced(steps_of(gaussian, dtype=tf.as_dtype(dtype)))(tf.constant(given))
        assert np.array_equal(is_missing, np.isnan(given))
        wanted = gaussian.fill(given.astype(np.float64))
        worst.append(np.max(np.abs(found - wanted) / gaussian.scale))
    return worst


@pytest.mark.parametrize("name", ROWS)
def test_conditional_means_agree_with_float64(name: str) -> None:
    """In float32 the fill is right to 1e-4 of a standard deviation, with 5 % and with half of all cells missing."""
    assert max(errors(ROWS[name], np.float32)) < 1e-4


@pytest.mark.parametrize("name", ["copies", "breast cancer"])
def test_conditional_means_in_float64(name: str) -> None:
    """Under a policy of float64 the fill is that of NumPy, to 1e-7 of a standard deviation."""
    assert max(errors(ROWS[name], np.float64)) < 1e-7


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_product_of_split_numbers(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The products that a GPU takes of ten bits each give what whole products give."""
    rows = ROWS["factors"]
    gaussian = gaussian_of(rows)
    monkeypatch.setattr(layer_ops, "_has_tensor_float", lambda: True)
    found, _ = layer_ops.clean(tf.constant(holed(rows[:100], share), tf.float32), steps_of(gaussian))
    assert np.max(np.abs(found - gaussian.fill(holed(rows[:100], share))) / gaussian.scale) < 1e-4
    x = np.float32(np.random.default_rng(0).normal(size=1000))
    leading = layer_ops._leading(tf.constant(x)).numpy()
    # What TF32 holds: the last 13 of the 23 bits of the fraction are 0.
    assert not np.any(leading.view(np.int32) & 0x1FFF)
    assert np.max(np.abs((x - leading) / x)) < 2.0**-10


def test_ends_of_a_row() -> None:
    """A row of nothing but gaps gets the means, and one without a gap keeps its bits."""
    gaussian = gaussian_of(ROWS["wine"])
    given = np.float32([np.full(13, np.nan), ROWS["wine"][0]])
    found = layer_ops.clean(tf.constant(given), steps_of(gaussian))[0].numpy()
    assert np.allclose(found[0], gaussian.mean, rtol=1e-6)
    assert np.array_equal(found[1], given[1])


@pytest.mark.parametrize("far", [1e12, 1e25, 3e38])
def test_far_cell_leaves_numbers(far: float) -> None:
    """A cell so far out that its distance or the square of it is infinite leaves every fill finite."""
    rows = ROWS["wine"].copy()
    rows[:, 3] *= 1e-6
    given = np.float32(holed(rows[:20], 0.3))
    given[:, 3] = far
    found = layer_ops.clean(tf.constant(given), steps_of(gaussian_of(rows)))[0].numpy()
    assert np.all(np.isfinite(found))
    assert np.all(found[:, 3] == np.float32(far))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_is_that_of_the_exact_solution(jit_compile: bool) -> None:
    """The gradient of a fill is that of differences, in a graph and under XLA, though the solution is iterated."""
    rows = ROWS["wine"]
    gaussian = gaussian_of(rows)
    steps = steps_of(gaussian, dtype=tf.float64)
    given = holed(rows[:5], 0.4)
    weights = np.random.default_rng(3).normal(size=given.shape) / gaussian.scale

    @tf.function(jit_compile=jit_compile)
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(layer_ops.clean(x, steps)[0] * weights)
        return tape.gradient(total, x)

    found = gradient(tf.constant(given)).numpy() * gaussian.scale
    for place in np.argwhere(~np.isnan(given))[::7]:
        step = np.zeros_like(given)
        step[tuple(place)] = 1e-4 * gaussian.scale[place[1]]
        up, down = (np.sum(gaussian.fill(x) * weights) for x in (given + step, given - step))
        assert found[tuple(place)] == pytest.approx((up - down) / 2e-4, rel=1e-5, abs=1e-6)
    assert np.all(found[np.isnan(given)] == 0)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64], ids=["float32", "float64"])
def test_every_gap_is_seen_in_a_graph(dtype: tf.DType) -> None:
    """NaN and infinities are missing in a graph as they are eagerly: no optimizer rewrites the question."""
    gaussian = gaussian_of(ROWS["wine"][:, :4])
    given = tf.constant([[np.nan, np.inf, -np.inf, 1.0]], dtype)
    for action in ("clip", "impute", None):
        steps = steps_of(gaussian, action=action)
        for function in (traced(steps).python_function, traced(steps), traced(steps, jit_compile=action == "clip")):
            found, is_missing = function(given)
            assert is_missing.numpy().tolist() == [[True, True, True, False]]
            assert np.all(np.isfinite(found))


def test_number_that_float32_does_not_hold_is_missing() -> None:
    """A float64 number beyond float32 is missing, not an infinity that comes out."""
    gaussian = gaussian_of(ROWS["wine"][:, :3])
    found, is_missing = layer_ops.clean(tf.constant([[1e39, 1.0, 2.0]], tf.float64), steps_of(gaussian))
    assert is_missing.numpy().tolist() == [[True, False, False]]
    assert np.all(np.isfinite(found))


def test_offset_keeps_what_float32_can_hold() -> None:
    """A prediction from columns at 1e8 is as exact as one from columns at 0, if they come in float64."""
    rows = ROWS["factors"][:, :6]
    shift = np.array([1e8] * 5 + [0.0])
    gaussian, moved = gaussian_of(rows), gaussian_of(rows + shift)
    given = rows[:50].copy()
    given[:, 5] = np.nan
    found = layer_ops.clean(tf.constant(given + shift), steps_of(moved))[0][:, 5]
    assert np.max(np.abs(found - gaussian.fill(given)[:, 5])) < 1e-5


def test_mean_is_exact_beside_an_offset() -> None:
    """Columns at 1e6 that come in float32 are centred by their mean, not by the float32 nearest to it."""
    rows = ROWS["factors"][:, :6] + np.array([1e6] * 5 + [0.0])
    given = rows[:50].astype(np.float32)
    given[:, 5] = np.nan
    gaussian = gaussian_of(rows)
    found = layer_ops.clean(tf.constant(given), steps_of(gaussian))[0][:, 5]
    assert np.max(np.abs(found - gaussian.fill(given.astype(np.float64))[:, 5])) < 1e-4
