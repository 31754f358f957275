"""Losses that draw embeddings of one kind together and push others apart."""

from __future__ import annotations

import math
from typing import Literal

import tensorflow as tf

from nanguard.losses._base import FunctionLoss, same_rank
from nanguard.losses._coupled import Coupled, lowest_of, pairs, presence, with_nan_of
from nanguard.losses._entry import admit, admit_target, dismiss, registered
from nanguard.losses.labels import labels_in_range
from nanguard.ops._bounds import check_choice, check_positive, clamp, format_of
from nanguard.ops._operation import TensorLike, to_float
from nanguard.ops.norm import l2_normalize, norm, pairwise_distances


def triplet_margin(
    anchor: TensorLike, positive: TensorLike, negative: TensorLike, margin: float = 1.0, squared: bool = False
) -> tf.Tensor:
    """Triplet loss of given triplets.

    Computes `max(d(anchor, positive) - d(anchor, negative) + margin, 0)` with the Euclidean distance, whose gradient at
    equal points is 0 here and NaN in `tf.norm`. NaN stays NaN.

    Args:
        anchor: Embeddings, shape (..., d).
        positive: Embeddings of the anchors' kind, same shape.
        negative: Embeddings of another kind, same shape.
        margin: By how much the negative must be farther. Defaults to 1, for embeddings of unit scale.
        squared: Whether distances are squared, which needs no root. Defaults to False.

    Returns:
        Tensor of shape (...), `>= 0`.

    Example:

    >>> triplet_margin([[0.0, 0.0]], [[0.0, 0.0]], [[0.75, 0.0]]).numpy()
    array([0.25], dtype=float32)

    Cures:
        NG301 sqrt-gradient-at-zero

    References:
        Schroff et al., *FaceNet*, CVPR 2015, eq. 2.
    """
    anchor = to_float(anchor)
    a = admit(anchor)
    near, far = (_distance(a - admit_target(other, a), squared) for other in (positive, negative))
    return dismiss(tf.nn.relu(near - far + margin), anchor.dtype)


@registered
def triplet(
    y_true: TensorLike,
    y_pred: TensorLike,
    margin: float = 1.0,
    mining: Literal["semi_hard", "hard", "all"] = "semi_hard",
    squared: bool = False,
    normalize: bool = False,
    present: TensorLike | None = None,
) -> tf.Tensor:
    """Triplet loss that finds its triplets in the batch, as one value for each anchor.

    Each value is a mean or a maximum of `max(d(anchor, positive) - d(anchor, negative) + margin, 0)`. An anchor without
    a positive or without a negative gives 0. Distances have gradient 0 at equal points. NaN stays NaN. All triplets are
    looked at for "semi_hard" and "all", which takes memory of the batch size to the third power.

    Args:
        y_true: Class numbers, shape (batch,) or (batch, 1).
        y_pred: Embeddings, shape (batch, d).
        margin: By how much negatives must be farther. Defaults to 1, for embeddings of unit scale.
        mining: "semi_hard" takes for each positive the nearest negative that is farther than it, or else the farthest
            one, and the mean over the positives; "hard" the farthest positive and the nearest negative; "all" the mean
            over all triplets that violate the margin. Defaults to "semi_hard": the hardest can collapse all embeddings
            to one point early in training.
        squared: Whether distances are squared. Defaults to False.
        normalize: Whether embeddings are brought to unit length first. Defaults to False.
        present: Which samples take part, shape (batch,). The class fills it in from weights and masks.

    Returns:
        Tensor of shape (batch,), `>= 0`.

    Raises:
        ValueError: If there is no such `mining`.

    Example:

    >>> triplet([0, 0, 1], [[0.0], [0.5], [0.6]], mining="hard").numpy()  # The third has no positive.
    array([0.9, 1.4, 0. ], dtype=float32)

    Cures:
        NG301 sqrt-gradient-at-zero, NG501 empty-reduction

    References:
        Schroff et al., *FaceNet*, CVPR 2015 (semi-hard). Hermans et al., *In Defense of the Triplet Loss for Person
        Re-Identification*, 2017, arXiv:1703.07737 (hard).
    """
    check_choice("mining", mining, ("semi_hard", "hard", "all"))
    y_pred = to_float(y_pred)
    points = admit(y_pred)
    if normalize:
        points = l2_normalize(points, axis=-1)
    distances = pairwise_distances(points, metric="squared_euclidean" if squared else "euclidean")
    positive, negative = pairs(y_true, presence(present, points))
    violations = {"semi_hard": _semi_hard, "hard": _hard, "all": _all}[mining]
    values = violations(distances, positive, negative, margin)
    usable = tf.reduce_any(positive, axis=1) & tf.reduce_any(negative, axis=1)
    values = tf.where(usable, values, tf.zeros_like(values)) + _zero_or_nan(points)
    return dismiss(with_nan_of(values, y_true), y_pred.dtype)


@registered
def contrastive(y_true: TensorLike, y_pred: TensorLike, margin: float = 1.0) -> tf.Tensor:
    """Contrastive loss of the distances of pairs.

    Computes `t * d ** 2 + (1 - t) * max(margin - d, 0) ** 2`, where `t` is 1 for a pair of one kind, and its mean over
    the last axis. Make the distance with `nanguard.ops.norm`, whose gradient is 0 where both are equal, for `tf.norm`
    there has NaN. A square that overflows is read at the largest finite number, with a bounded slope. NaN stays NaN.

    Args:
        y_true: 1 for a pair of one kind, 0 for two kinds, shape (..., n). The paper has them the other way round.
        y_pred: Distances, `>= 0`, shape as `y_true`.
        margin: Beyond which distance two kinds no longer repel. Defaults to 1.

    Returns:
        Tensor of shape (...).

    Example:

    >>> contrastive([[1.0], [0.0]], [[0.5], [0.25]]).numpy()
    array([0.25  , 0.5625], dtype=float32)

    Cures:
        NG202 arithmetic-overflow

    References:
        Hadsell et al., *Dimensionality Reduction by Learning an Invariant Mapping*, CVPR 2006.
    """
    y_pred = to_float(y_pred)
    d = admit(y_pred)
    t, d = same_rank(admit_target(y_true, d, 0.0, 1.0), d)
    values = t * tf.square(d) + (1 - t) * tf.square(tf.nn.relu(margin - d))
    return dismiss(values if values.shape.rank == 0 else tf.reduce_mean(values, axis=-1), y_pred.dtype)


@registered
def nt_xent(
    y_true: TensorLike, y_pred: TensorLike, temperature: float = 0.5, present: TensorLike | None = None
) -> tf.Tensor:
    """Normalised, temperature-scaled cross-entropy of two views of a batch (SimCLR).

    Each view of a sample has to find its other view among all others of the batch by cosine similarity; the mean of
    both directions is given. A batch of one sample has nothing to be told from and gives 0. A zero embedding has
    similarity 0 to all, with a finite gradient. NaN stays NaN, in all samples, since each is compared with each.

    Args:
        y_true: Embeddings of one view, shape (batch, d). They receive a gradient too.
        y_pred: Embeddings of the other view, shape (batch, d).
        temperature: Similarities are divided by it, `> 0`. Defaults to 0.5.
        present: Which samples take part, shape (batch,). The class fills it in from weights and masks.

    Returns:
        Tensor of shape (batch,), `>= 0`.

    Raises:
        ValueError: If `temperature` is not positive.

    Example:

    >>> nt_xent([[1.0, 0.0]], [[0.0, 1.0]]).numpy()
    array([0.], dtype=float32)

    Cures:
        NG105 division-by-zero, NG301 sqrt-gradient-at-zero

    References:
        Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, ICML 2020, eq. 1.
    """
    check_positive("temperature", temperature, "0.5")
    y_pred = to_float(y_pred)
    second = admit(y_pred)
    first = admit_target(y_true, second)
    here = presence(present, second)
    number = tf.shape(second)[0]
    similar, others = _similarities(tf.concat([first, second], axis=0), tf.concat([here, here], axis=0), temperature)
    partner = tf.math.floormod(tf.range(2 * number) + number, tf.maximum(2 * number, 1))
    log_total = _log_sum_exp(similar, others)
    values = log_total - tf.gather(similar, partner, axis=1, batch_dims=1)
    values = 0.5 * (values[:number] + values[number:])
    return dismiss(tf.where(here, values, tf.zeros_like(values)), y_pred.dtype)


@registered
def supervised_contrastive(
    y_true: TensorLike, y_pred: TensorLike, temperature: float = 0.1, present: TensorLike | None = None
) -> tf.Tensor:
    """Supervised contrastive loss, as one value for each anchor.

    Computes the mean over the anchor's positives of `logsumexp(s) - s_positive`, where `s` are the cosine similarities
    to all others over the temperature. An anchor without a positive gives 0, and so does a batch of one. A zero
    embedding has similarity 0 to all, with a finite gradient. NaN stays NaN.

    Args:
        y_true: Class numbers, shape (batch,) or (batch, 1).
        y_pred: Embeddings, shape (batch, d); they are brought to unit length here.
        temperature: Similarities are divided by it, `> 0`. Defaults to 0.1, as in the paper.
        present: Which samples take part, shape (batch,). The class fills it in from weights and masks.

    Returns:
        Tensor of shape (batch,).

    Raises:
        ValueError: If `temperature` is not positive.

    Example:

    >>> supervised_contrastive([0, 1], [[1.0, 0.0], [0.0, 1.0]]).numpy()
    array([0., 0.], dtype=float32)

    Cures:
        NG501 empty-reduction, NG105 division-by-zero

    References:
        Khosla et al., *Supervised Contrastive Learning*, NeurIPS 2020, eq. 2.
    """
    check_positive("temperature", temperature, "0.1")
    y_pred = to_float(y_pred)
    points = admit(y_pred)
    here = presence(present, points)
    similar, others = _similarities(points, here, temperature)
    positive = tf.cast(pairs(y_true, here)[0], points.dtype)
    number = tf.reduce_sum(positive, axis=1)
    mean = tf.math.divide_no_nan(tf.reduce_sum(positive * similar, axis=1), number)
    values = _log_sum_exp(similar, others) - mean
    values = tf.where(number > 0, values, tf.zeros_like(values)) + _zero_or_nan(points)
    return dismiss(with_nan_of(values, y_true), y_pred.dtype)


@registered
def arcface(y_true: TensorLike, y_pred: TensorLike, margin: float = 0.5, scale: float = 64.0) -> tf.Tensor:
    """Additive angular margin loss (ArcFace), from cosines.

    The softmax cross-entropy of `scale * cos(theta_j)`, in which the target's angle is made larger by `margin`. Where
    that sum would pass pi, the cosine goes on as a line, `cos(theta) - margin * sin(margin)`, so that a worse angle has
    always the larger loss. No angle is worked out: `cos(theta + margin)` is made of the cosine and of a sine whose
    infinite slope at a cosine of 1 is read one rounding step away. Cosines that rounding left outside [-1, 1] are read
    as the end. NaN stays NaN.

    Args:
        y_true: Class numbers, shape (batch,) or (batch, 1), or one-hot targets of the shape of `y_pred`. A number that
        is
            no class raises an error in eager mode; in a graph its sample counts as 0, with gradient 0.
        y_pred: Cosines between embedding and class, shape (batch, classes).
        margin: Angle in radians, in [0, pi / 2]. Defaults to 0.5, as in the paper.
        scale: What the cosines are multiplied by, `> 0`. Defaults to 64, as in the paper.

    Returns:
        Tensor of shape (batch,), `>= 0`.

    Raises:
        ValueError: If `margin` or `scale` is outside its range, or, in eager mode, a label is.

    Example:

    >>> arcface([0], [[1.0, -1.0]], margin=0.0, scale=1.0).numpy()
    array([0.12692805], dtype=float32)

    Cures:
        NG304 inverse-trig-gradient-at-end, NG109 inverse-function-outside-domain, NG707 label-out-of-range

    References:
        Deng et al., *ArcFace*, CVPR 2019, eq. 3.
    """
    check_positive("scale", scale, "64")
    if not 0 <= margin <= math.pi / 2:
        raise ValueError(f"`margin` must be in [0, pi / 2]. Received: margin={margin}. To use 0.5, leave it out.")
    y_pred = to_float(y_pred)
    cosine = admit(y_pred, -1.0, 1.0)
    y_true = tf.convert_to_tensor(y_true)
    if y_true.shape.rank == cosine.shape.rank and y_true.shape[-1] == 1 and cosine.shape[-1] != 1:
        y_true = tf.squeeze(y_true, axis=-1)
    share = tf.ones([], cosine.dtype)
    if y_true.shape.rank == cosine.shape.rank - 1:
        labels, share = labels_in_range(y_true, cosine, None)
        target = tf.one_hot(labels, tf.shape(cosine)[-1], dtype=cosine.dtype)
    else:
        target = admit_target(y_true, cosine, 0.0, 1.0)
    # One cosine for each sample: the margin is the target's alone.
    own = tf.reduce_sum(target * cosine, axis=-1, keepdims=True)
    logits = scale * (cosine + target * (_with_margin(own, margin) - own))
    return dismiss(share * tf.nn.softmax_cross_entropy_with_logits(target, logits), y_pred.dtype)


class Triplet(Coupled, FunctionLoss, function=triplet):
    """Triplet loss with mining as a class; see `triplet`."""


class Contrastive(FunctionLoss, function=contrastive):
    """Contrastive loss of pairs as a class; see `contrastive`."""


class NTXent(Coupled, FunctionLoss, function=nt_xent):
    """SimCLR's loss as a class; see `nt_xent`."""


class SupervisedContrastive(Coupled, FunctionLoss, function=supervised_contrastive):
    """Supervised contrastive loss as a class; see `supervised_contrastive`."""


class ArcFace(FunctionLoss, function=arcface):
    """Additive angular margin loss as a class; see `arcface`."""


def _distance(difference: tf.Tensor, squared: bool) -> tf.Tensor:
    return tf.reduce_sum(tf.square(difference), axis=-1) if squared else norm(difference, axis=-1)


def _zero_or_nan(points: tf.Tensor) -> tf.Tensor:
    """Gives for each sample 0, or NaN if it holds one: a comparison with NaN is false, and would hide it."""
    return tf.reduce_sum(tf.stop_gradient(points * 0), axis=-1)


def _largest(distances: tf.Tensor, of: tf.Tensor) -> tf.Tensor:
    """Gives the largest distance of each row among those that count; no less than 0."""
    return tf.reduce_max(tf.where(of, distances, tf.zeros_like(distances)), axis=-1)


def _smallest(distances: tf.Tensor, of: tf.Tensor) -> tf.Tensor:
    """Gives the smallest distance of each row among those that count, or the dtype's largest number."""
    return tf.reduce_min(tf.where(of, distances, tf.constant(format_of(distances).max, distances.dtype)), axis=-1)


def _hard(distances: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float) -> tf.Tensor:
    return tf.nn.relu(_largest(distances, positive) - _smallest(distances, negative) + margin)


def _semi_hard(distances: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float) -> tf.Tensor:
    farther = negative[:, None, :] & (distances[:, None, :] > distances[:, :, None])
    nearest = _smallest(distances[:, None, :], farther)
    chosen = tf.where(tf.reduce_any(farther, axis=-1), nearest, _largest(distances, negative)[:, None])
    return _mean_where(tf.nn.relu(distances - chosen + margin), positive)


def _all(distances: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float) -> tf.Tensor:
    violations = tf.nn.relu(distances[:, :, None] - distances[:, None, :] + margin)
    counted = positive[:, :, None] & negative[:, None, :] & (violations > 0)
    flat = [tf.shape(distances)[0], -1]
    return _mean_where(tf.reshape(violations, flat), tf.reshape(counted, flat))


def _mean_where(values: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """Gives the mean over the last axis of what counts, 0 if nothing does."""
    number = tf.reduce_sum(tf.cast(counted, values.dtype), axis=-1)
    total = tf.reduce_sum(tf.where(counted, values, tf.zeros_like(values)), axis=-1)
    return tf.math.divide_no_nan(total, number)


def _similarities(points: tf.Tensor, here: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives the scaled cosine similarities of each two points, and which pairs are of two different present ones."""
    unit = l2_normalize(points, axis=-1)
    number = tf.shape(unit)[0]
    others = here[:, None] & here[None, :] & ~tf.cast(tf.eye(number), tf.bool)
    return tf.matmul(unit, unit, transpose_b=True) / temperature, others


def _log_sum_exp(x: tf.Tensor, of: tf.Tensor) -> tf.Tensor:
    """Gives the logarithm of the sum of exponentials of each row over those that count."""
    return tf.reduce_logsumexp(tf.where(of, x, lowest_of(x)), axis=-1)


def _with_margin(cosine: tf.Tensor, margin: float) -> tf.Tensor:
    """Gives `cos(theta + margin)` of `cos(theta)`, and a line beyond pi."""
    inside = clamp(cosine, -1 + format_of(cosine).eps, 1 - format_of(cosine).eps, gradient="straight_through")
    sine = tf.sqrt((1 - inside) * (1 + inside))
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    return tf.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))
