"""Losses of embeddings against loops over pairs and triplets."""

from __future__ import annotations

import math

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


@pytest.fixture
def embeddings():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
    return labels, RNG.normal(size=(9, 4))


def triplets(labels, points, mining, margin):
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    values = []
    for i, label in enumerate(labels):
        near = [distance[i, j] for j in range(len(labels)) if labels[j] == label and j != i]
        far = [distance[i, j] for j in range(len(labels)) if labels[j] != label]
        if not near:
            each = [0.0]
        elif mining == "hard":
            each = [max(max(near) - min(far) + margin, 0)]
        elif mining == "all":
            each = [d - e + margin for d in near for e in far if d - e + margin > 0] or [0.0]
        else:
            each = [max(d - min((e for e in far if e > d), default=max(far)) + margin, 0) for d in near]
        values.append(np.mean(each))
    return values


@pytest.mark.parametrize("mining", ["semi_hard", "hard", "all"])
def test_triplets_are_those_that_loops_find(embeddings, mining):
    """An anchor without a positive gives 0."""
    got = losses.triplet(*embeddings, margin=0.7, mining=mining)
    np.testing.assert_allclose(got, triplets(*embeddings, mining, 0.7), rtol=1e-9)


@pytest.mark.parametrize("mining", ["semi_hard", "hard", "all"])
@pytest.mark.parametrize("squared", [True, False])
def test_equal_points_have_a_finite_gradient(mining, squared):
    """A batch that has collapsed to one point has the loss `margin` and the gradient 0."""
    points = np.ones((4, 3), "float32")
    values = losses.triplet([0, 0, 1, 1], points, mining=mining, squared=squared)
    np.testing.assert_array_equal(values, 1)
    assert not np.any(gradient(lambda x: losses.triplet([0, 0, 1, 1], x, mining=mining, squared=squared), points))


def test_given_triplets_at_one_point_cost_the_margin():
    """The gradient of all three is 0."""
    anchor = tf.ones((2, 3))
    with tf.GradientTape() as tape:
        tape.watch(anchor)
        values = losses.triplet_margin(anchor, anchor, anchor)
    np.testing.assert_array_equal(values, 1)
    assert not np.any(tape.gradient(values, anchor))


def test_contrastive_pulls_one_kind_and_pushes_two():
    """The slope is 2 d for one kind, -2 (margin - d) for two within the margin, and 0 beyond it."""
    d = np.array([[0.5], [0.5], [3.0]], "float32")
    t = [[1.0], [0.0], [0.0]]
    np.testing.assert_allclose(losses.contrastive(t, d), [0.25, 0.25, 0])
    np.testing.assert_allclose(gradient(lambda x: losses.contrastive(t, x), d)[:, 0], [1, -1, 0])


def test_nt_xent_finds_the_other_view_among_all():
    """As a loop over both views has it, with a gradient to both."""
    a, b = RNG.normal(size=(2, 5, 3))
    x = np.concatenate([a, b])
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    s = x @ x.T / 0.3
    each = [np.log(sum(np.exp(s[i, j]) for j in range(10) if j != i)) - s[i, (i + 5) % 10] for i in range(10)]
    np.testing.assert_allclose(losses.nt_xent(a, b, 0.3), np.reshape(each, (2, 5)).mean(0), rtol=1e-9)


def test_supervised_contrastive_is_the_mean_over_the_positives(embeddings):
    """An anchor without one gives 0."""
    labels, points = embeddings
    x = points / np.linalg.norm(points, axis=-1, keepdims=True)
    s = x @ x.T / 0.2
    wanted = []
    for i in range(9):
        total = np.log(sum(np.exp(s[i, j]) for j in range(9) if j != i))
        each = [total - s[i, j] for j in range(9) if labels[j] == labels[i] and j != i]
        wanted.append(np.mean(each) if each else 0.0)
    np.testing.assert_allclose(losses.supervised_contrastive(*embeddings, 0.2), wanted, rtol=1e-9)


@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_of_one_or_none_has_nothing_to_compare(size):
    """Value and gradient are 0."""
    points = np.ones((size, 3), "float32")
    labels = np.zeros(size, "int32")
    for loss, target in (
        (losses.Triplet(), labels),
        (losses.NTXent(), points),
        (losses.SupervisedContrastive(), labels),
    ):
        assert loss(target, points) == 0
        assert not np.any(gradient(lambda x, loss=loss, target=target: loss(target, x), points))


def test_a_sample_of_weight_0_is_compared_with_none(embeddings):
    """The others have the loss that they have without it, also if it is NaN."""
    labels, points = embeddings[0], embeddings[1].astype("float32")
    weight = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1], "float32")
    kept = weight > 0
    points[~kept] = np.nan
    for loss, target in (
        (losses.Triplet(mining="all", reduction="sum"), labels),
        (losses.NTXent(reduction="sum"), RNG.normal(size=(9, 4)).astype("float32")),
        (losses.SupervisedContrastive(reduction="sum"), labels),
    ):
        got = loss(target, points, sample_weight=weight)
        np.testing.assert_allclose(got, loss(target[kept], points[kept]), rtol=1e-5)


def test_arcface_adds_the_margin_to_the_angle_of_the_target():
    """As acos and cos have it where the angle stays below pi; class numbers and one-hot targets agree."""
    c, labels = RNG.uniform(-0.8, 0.99, (6, 4)), np.array([0, 1, 2, 3, 0, 1])
    logits = c.copy()
    logits[np.arange(6), labels] = np.cos(np.arccos(c[np.arange(6), labels]) + 0.5)
    logits *= 8
    wanted = np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), labels]
    for y_true in (labels, labels[:, None], np.eye(4)[labels]):
        np.testing.assert_allclose(losses.arcface(y_true, c, scale=8.0), wanted, rtol=1e-9)


def test_arcface_at_the_ends_has_a_finite_slope_that_teaches():
    """At a cosine of -1 the target is pulled; at 1, where the angle's slope is infinite, it is bounded."""
    c = np.array([[-1.0, 0.5], [1.0, 0.5], [1.0000001, 0.5]], "float32")
    slopes = gradient(lambda x: losses.arcface([0, 0, 0], x), c)
    assert slopes[0, 0] < -10
    assert np.all(np.abs(slopes) < 1e6)
    worse = losses.arcface([0, 0, 0], [[math.cos(3.1), 0.0], [math.cos(2.7), 0.0], [math.cos(2.5), 0.0]]).numpy()
    assert worse[0] > worse[1] > worse[2]
