"""Losses of overlap for segmentation, beyond those that Keras has."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from nanguard.losses._base import FunctionLoss, Loss, align, same_rank
from nanguard.losses._entry import dismiss, like, reach_of, registered
from nanguard.losses._rows import spread, widen
from nanguard.ops._bounds import bounded, check_positive, clamp, clipped, format_of, largest_slope
from nanguard.ops._operation import TensorLike, to_float


@registered
def jaccard(
    y_true: TensorLike, y_pred: TensorLike, axis: int | Sequence[int] | None = None, smooth: float = 1.0
) -> tf.Tensor:
    """Soft Jaccard distance, `1 - IoU`, per image.

    Computes `wrong / (hit + wrong + smooth)`, where `hit = sum(t * p)` and `wrong = sum(t * (1 - p) + (1 - t) * p)`
    over the pixels of one region: one class of one image. That is `1 - (hit + smooth) / (union + smooth)`. The mean
    over the classes is given.

    A region that is empty in truth and prediction gives 0, with `smooth=0` too. Numbers outside [0, 1] give a finite
    loss with a finite gradient, and no more is promised of them. NaN stays NaN.

    Args:
        y_true: Targets in [0, 1], shape (batch, ..., classes).
        y_pred: Probabilities, shape as `y_true`.
        axis: Axes whose pixels make one region. Defaults to all but the first and the last, or to the last of two.
            (0, 1, 2) takes an image batch as one region, (1, 2, 3) all classes of an image.
        smooth: Pixels added above and below, `>= 0`. Defaults to 1: with 0, a class that is absent has slope 0, and
            what is falsely seen of it never goes away.

    Returns:
        Tensor of shape (batch,), in [0, 1].

    Raises:
        ValueError: If `smooth` is negative.

    Example:

    >>> jaccard([[1.0, 1.0, 0.0, 0.0]], [[1.0, 0.0, 1.0, 0.0]]).numpy()
    array([0.5], dtype=float32)

    Cures:
        NG105 division-by-zero

    References:
        Rahman and Wang, *Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation*, ISVC 2016.
    """
    return focal_tversky(y_true, y_pred, alpha=1.0, beta=1.0, gamma=1.0, axis=axis, smooth=smooth)


@registered
def focal_tversky(
    y_true: TensorLike,
    y_pred: TensorLike,
    alpha: float = 0.7,
    beta: float = 0.3,
    gamma: float = 4 / 3,
    axis: int | Sequence[int] | None = None,
    smooth: float = 1.0,
) -> tf.Tensor:
    """Focal Tversky loss, `(1 - TI) ** (1 / gamma)`, per image.

    `1 - TI = wrong / (hit + wrong + smooth)` with `hit = sum(t * p)` and
    `wrong = alpha * sum(t * (1 - p)) + beta * sum((1 - t) * p)` over one class of one image; the mean over the classes
    is given. The root of an exponent below 1 has an infinite slope at a perfect prediction; here an error that is
    smaller than the rounding of 1, 1.2e-7 in float32, has the slope 0.

    An empty region, numbers outside [0, 1] and NaN: as in `jaccard`.

    Args:
        y_true: Targets in [0, 1], shape (batch, ..., classes).
        y_pred: Probabilities, shape as `y_true`.
        alpha: Weight of what was missed, `>= 0`. Defaults to 0.7, as in the paper.
        beta: Weight of what was falsely seen, `>= 0`. Defaults to 0.3.
        gamma: Focus, `> 0`: above 1 regions that are nearly right count more. Defaults to 4 / 3, as in the paper.
        axis: See `jaccard`.
        smooth: See `jaccard`.

    Returns:
        Tensor of shape (batch,), in [0, 1].

    Raises:
        ValueError: If `gamma` is not positive, or `smooth`, `alpha` or `beta` is negative.

    Example:

    >>> focal_tversky([[1.0, 1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0, 0.0]]).numpy()
    array([0.], dtype=float32)

    Cures:
        NG105 division-by-zero, NG302 pow-gradient-at-zero

    References:
        Abraham and Khan, *A Novel Focal Tversky Loss Function with Improved Attention U-Net*, ISBI 2019.
    """
    check_positive("gamma", gamma, "that of the paper")
    for name, number in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        _check_not_negative(name, number)
    y_pred = to_float(y_pred)
    axes = _region_axes(y_pred, axis)
    hit, missed, invented = _overlap(y_true, y_pred, axes)
    wrong = alpha * missed + beta * invented
    error = wrong / tf.maximum(hit + wrong + smooth, format_of(hit).floor)
    return _mean_over_classes(error if gamma == 1 else _root(error, 1 / gamma), y_pred, axes)


@registered
def generalized_dice(
    y_true: TensorLike, y_pred: TensorLike, axis: int | Sequence[int] | None = None, smooth: float = 1.0
) -> tf.Tensor:
    """Generalised Dice loss: one Dice over all classes, each weighted by the inverse square of its size.

    Computes `sum(w * wrong) / (sum(w * (size_true + size_pred)) + smooth)` over the classes, with
    `w = 1 / max(size_true, 1) ** 2` and `wrong` as in `jaccard`. The paper's weight of an absent class is infinite;
    here it is that of a class of one pixel, so that what is falsely seen of it is unlearnt.

    Numbers outside [0, 1] and NaN: as in `jaccard`.

    Args:
        y_true: Targets in [0, 1], shape (batch, ..., classes).
        y_pred: Probabilities, shape as `y_true`.
        axis: See `jaccard`. Must not hold the last axis if there are classes on it.
        smooth: Added to the denominator, `>= 0`. Defaults to 1, for images in which nothing is.

    Returns:
        Tensor of shape (batch,), in [0, 1].

    Raises:
        ValueError: If `smooth` is negative.

    Example:

    >>> truth = np.array([[[1, 0], [1, 0], [1, 0]]], "float32")  # The second class is absent.
    >>> generalized_dice(truth, truth).numpy()
    array([0.], dtype=float32)

    Cures:
        NG105 division-by-zero

    References:
        Sudre et al., *Generalised Dice Overlap as a Deep Learning Loss Function for Highly Unbalanced Segmentations*,
        DLMIA 2017.
    """
    _check_not_negative("smooth", smooth)
    y_pred = to_float(y_pred)
    axes = _region_axes(y_pred, axis)
    hit, missed, invented = _overlap(y_true, y_pred, axes)
    # A target's size chooses the weight; no gradient of it is meant.
    weight = tf.stop_gradient(1 / tf.square(tf.maximum(hit + missed, 1)))
    wrong, sizes = weight * (missed + invented), weight * (2 * hit + missed + invented)
    if not _holds_last(axes, y_pred):
        wrong, sizes = tf.reduce_sum(wrong, axis=-1), tf.reduce_sum(sizes, axis=-1)
    return dismiss(wrong / tf.maximum(sizes + smooth, format_of(hit).floor), y_pred.dtype)


class _RegionLoss(Loss):
    """Beside `FunctionLoss`: weights and masks that are finer than a loss's values choose the pixels that count."""

    def _reduce(self, values: tf.Tensor, sample_weight: tf.Tensor | None, mask: tf.Tensor | None) -> tf.Tensor:
        # The base class has made targets and predictions 0 where they are 0, which is in no region.
        sample_weight, mask = (
            None if weights is None or align(weights, values).shape.rank > values.shape.rank else weights
            for weights in (sample_weight, mask)
        )
        return super()._reduce(values, sample_weight, mask)


class Jaccard(_RegionLoss, FunctionLoss, function=jaccard):
    """Soft Jaccard distance as a loss class; see `jaccard`.

    Weights or a mask of the shape of the pixels leave out those with 0.
    """


class FocalTversky(_RegionLoss, FunctionLoss, function=focal_tversky):
    """Focal Tversky loss as a class; see `focal_tversky`."""


class GeneralizedDice(_RegionLoss, FunctionLoss, function=generalized_dice):
    """Generalised Dice loss as a class; see `generalized_dice`."""


def _overlap(y_true: TensorLike, y_pred: tf.Tensor, axes: list[int]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gives what was hit, missed and falsely seen of each region, none below 0."""
    p = widen(y_pred)
    t, p = same_rank(like(y_true, p), p)
    steepest, whole = largest_slope(p), [each % p.shape.rank for each in axes]

    def sums(t: tf.Tensor, p: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Not sum(t) - hit and sum(p) - hit: what is nearly right would be lost in the rounding of what is.
        return tuple(tf.reduce_sum(share, whole) for share in (t * p, t * (1 - p), (1 - t) * p))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def overlap(t: tf.Tensor, p: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], object]:
        plain = sums(t, p)
        is_finite = tf.reduce_all(tf.math.is_finite(tf.add_n(plain)))
        found = tf.cond(is_finite, lambda: plain, lambda: sums(clipped(t, 0.0, 1.0), clipped(p, 0.0, 1.0)))

        def backward(*upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            hit, missed, invented = (spread(bounded(each, steepest / 4), p, whole) for each in upstream)
            both = hit - missed - invented
            return bounded(missed + p * both, steepest), bounded(invented + t * both, steepest)

        return found, backward

    # Rounding, and numbers outside [0, 1], can take them below 0.
    reach = reach_of(p.dtype)
    hit, missed, invented = (clamp(each, 0.0, reach, gradient="straight_through") for each in overlap(t, p))
    return hit, missed, invented


def _region_axes(y_pred: tf.Tensor, axis: int | Sequence[int] | None) -> list[int]:
    rank = y_pred.shape.rank
    if axis is None:
        return list(range(1, rank - 1)) if rank > 2 else list(range(rank))[-1:]
    return [axis] if isinstance(axis, int) else list(axis)


def _holds_last(axes: list[int], y_pred: tf.Tensor) -> bool:
    return -1 in axes or y_pred.shape.rank - 1 in axes


def _mean_over_classes(errors: tf.Tensor, y_pred: tf.Tensor, axes: list[int]) -> tf.Tensor:
    return dismiss(errors if _holds_last(axes, y_pred) else tf.reduce_mean(errors, axis=-1), y_pred.dtype)


def _root(error: tf.Tensor, exponent: float) -> tf.Tensor:
    """Gives `error ** exponent`, whose slope is 0 where the error is below the dtype's rounding of 1."""
    least = tf.constant(format_of(error).eps, error.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def root(error: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            slope = exponent * tf.pow(tf.maximum(error, least), exponent - 1)
            return upstream * tf.where(error < least, tf.zeros_like(slope), slope)

        return tf.pow(error, exponent), backward

    return root(error)


def _check_not_negative(name: str, number: float) -> None:
    if not number >= 0:
        raise ValueError(f"`{name}` must not be negative. Received: {name}={number}.")
