"""Losses of a distribution over classes, with the number of the right class as target."""

from __future__ import annotations

import tensorflow as tf

from nanguard.backend.predictions import set_mask
from nanguard.losses._base import FunctionLoss
from nanguard.losses._logits import classes_last, logits_of
from nanguard.losses._rows import label_loss, nearest_to_zero
from nanguard.losses.categorical import normalized
from nanguard.ops._bounds import clamp, format_of
from nanguard.ops._operation import TensorLike


@label_loss
def sparse_categorical_crossentropy(
    y_true: TensorLike,
    y_pred: TensorLike,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> tf.Tensor:
    """`-log(p)` of the right class, with a slope that neither vanishes nor explodes.

    From logits, and from a prediction that a softmax made and so still knows its logits, this is
    `tf.nn.sparse_softmax_cross_entropy_with_logits`. Bare probabilities are as in `categorical_crossentropy`, and the
    logarithm is taken of one number in a row.

    A NaN in a row, or as a label, makes its loss NaN.

    Args:
        y_true: Class numbers from 0 to `classes - 1`, shape (...) or (..., 1). Any other is an error in eager mode; in
            a graph, which cannot stop under XLA, such a row has the value 0 and no gradient.
        y_pred: Probabilities or logits, shape (..., classes). A negative probability counts as 0.
        from_logits: Whether `y_pred` holds logits. Defaults to False.
        ignore_class: A class number whose rows have the value 0 and take no part in the mean, such as -1 or 255 for
            "void". Whatever their prediction holds does no harm. Defaults to None.
        axis: Axis of the classes. Defaults to the last.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where it is.

    Raises:
        ValueError: If a label is out of range (eager mode), or the shapes do not fit.

    Example:

    >>> np.round(sparse_categorical_crossentropy([1, 2], [[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]]), 4)
    array([ 0.6931, 43.6683], dtype=float32)

    Cures:
        NG707 label-out-of-range, NG101 log-of-nonpositive, NG307 log-gradient-at-zero
    """
    y_pred, from_logits = logits_of(y_pred, from_logits, "Softmax")
    y_pred = classes_last(y_pred, axis)
    y_true = without_last_axis(y_true, y_pred, axis)
    taken = None
    if ignore_class is not None:
        taken = tf.not_equal(y_true, tf.cast(ignore_class, y_true.dtype))
        y_pred = tf.where(tf.expand_dims(taken, -1), y_pred, tf.zeros([], y_pred.dtype))
    labels, share = labels_in_range(y_true, y_pred, taken)
    if from_logits:
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=y_pred)
        values = clamp(values, high=format_of(values).max, gradient="straight_through")
    else:
        values = _from_probabilities(labels, y_pred)
    return values * share if taken is None else set_mask(values * share, taken)


@label_loss
def categorical_generalized_cross_entropy(y_true: TensorLike, y_pred: TensorLike, q: float) -> tf.Tensor:
    """`(1 - p**q) / q` of the right class, for labels that may be wrong: between crossentropy and absolute error.

    The slope `-p**(q - 1)` is read no nearer to 0 than `keras.config.epsilon()`, and a negative `p` counts as 0 with
    that slope, so that a wrong prediction is pulled up. A NaN in a row, or as a label, makes its loss NaN.

    Args:
        y_true: Class numbers, shape (...) or (..., 1), out of range as in `sparse_categorical_crossentropy`.
        y_pred: Probabilities, shape (..., classes).
        q: In (0, 1): near 0 this is the crossentropy, near 1 the absolute error.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where it is.

    Raises:
        ValueError: If `q` is not between 0 and 1, or a label is out of range (eager mode).

    Example:

    >>> np.round(categorical_generalized_cross_entropy([1, 2], [[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]], q=0.5), 4)
    array([0.5858, 2.    ], dtype=float32)

    Cures:
        NG302 pow-gradient-at-zero, NG707 label-out-of-range

    References:
        Zhang and Sabuncu, *Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels*,
        NeurIPS 2018.
    """
    check_q(q)
    labels, share = labels_in_range(without_last_axis(y_true, y_pred, -1), y_pred, None)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def robust(p: tf.Tensor) -> tuple[tf.Tensor, object]:
        floor = tf.constant(format_of(p).floor, p.dtype)
        values = -tf.math.expm1(q * tf.math.log(tf.maximum(p, floor))) / q
        # Below the floor p**q is not yet small where q is near 0.
        values = tf.where(p < floor, tf.constant(1 / q, p.dtype), values)
        least = tf.constant(nearest_to_zero(p), p.dtype)
        return values, lambda upstream: -tf.pow(tf.maximum(p, least), q - 1) * upstream

    return robust(picked(labels, y_pred)) * share


def check_q(q: float) -> None:
    """Raises ValueError unless `0 < q < 1`."""
    if not 0 < q < 1:
        raise ValueError(
            f"`q` must lie between 0 and 1. Received: q={q}. At 0 use the crossentropy, at 1 the absolute error."
        )


def without_last_axis(y_true: tf.Tensor, y_pred: tf.Tensor, axis: int) -> tf.Tensor:
    """Gives class numbers without the axis of size 1 that stands for the classes.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if y_true.shape.rank is not None and y_true.shape.rank == y_pred.shape.rank and y_true.shape[axis] == 1:
        y_true = tf.squeeze(y_true, axis)
    if not y_true.shape.is_compatible_with(y_pred.shape[:-1]):
        raise ValueError(
            "`y_true` must hold one class number for each row of `y_pred`. Received: "
            f"y_true.shape={tuple(y_true.shape)}, y_pred.shape={tuple(y_pred.shape)} with the classes last. One-hot "
            "rows are for `categorical_crossentropy`."
        )
    return y_true


def labels_in_range(y_true: tf.Tensor, y_pred: tf.Tensor, taken: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives class numbers of which all exist, and what each row's value counts: 1, 0 if its number does not exist.

    A NaN label counts NaN.

    Args:
        y_true: Class numbers, shape (...).
        y_pred: Predictions, shape (..., classes).
        taken: Which rows are asked for, if not all.

    Raises:
        ValueError: If a class number that is taken does not exist (eager mode).
    """
    num_classes = y_pred.shape[-1] or tf.shape(y_pred)[-1]
    in_range = (y_true >= 0) & (y_true < tf.cast(num_classes, y_true.dtype))
    if taken is not None:
        in_range &= taken
    labels = tf.cast(tf.where(in_range, y_true, tf.zeros_like(y_true)), tf.int64)
    share = tf.cast(in_range, y_pred.dtype)
    if y_true.dtype.is_floating:
        share = tf.where(tf.math.is_nan(y_true), tf.cast(y_true, y_pred.dtype), share)
    outside = tf.equal(share, 0) if taken is None else tf.equal(share, 0) & taken
    refuse_labels(y_true, outside, num_classes)
    return labels, share


def refuse_labels(y_true: tf.Tensor, outside: tf.Tensor, num_classes: int) -> None:
    """Raises ValueError in eager mode if there is a label outside of the classes."""
    if not tf.executing_eagerly():
        return
    rows = tf.where(outside)
    if len(rows) == 0:
        return
    found = sorted({each.item() for each in tf.gather_nd(y_true, rows).numpy()})
    shown = ", ".join(f"{each:g}" for each in found[:5]) + (", ..." if len(found) > 5 else "")
    places = [each[0] if len(each) == 1 else tuple(each) for each in rows.numpy().tolist()[:5]]
    raise ValueError(
        f"Labels must be from 0 to {int(num_classes) - 1}, for {int(num_classes)} classes. Received: {shown} at "
        f"{', '.join(map(str, places))}{', ...' if len(rows) > 5 else ''} ({len(rows)} of {int(tf.size(y_true))} "
        "labels). To leave a class out, use `ignore_class`; to count from 0, subtract the smallest label."
    )


def picked(labels: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Gives one number of each row; a NaN anywhere in a row makes it NaN, which a gather would not see."""
    return tf.reduce_sum(x * tf.one_hot(labels, tf.shape(x)[-1], dtype=x.dtype), -1)


def _from_probabilities(labels: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def crossentropy(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        _, total, least = normalized(x)
        one = tf.expand_dims(tf.gather(x, labels, axis=-1, batch_dims=labels.shape.rank), -1)
        floor = tf.constant(format_of(x).floor, x.dtype)
        values = -tf.math.log(tf.maximum(tf.nn.relu(one) / total, floor))

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            upstream = tf.expand_dims(upstream, -1)
            mean = upstream / tf.maximum(total, tf.constant(nearest_to_zero(x), x.dtype))
            right = tf.one_hot(labels, tf.shape(x)[-1], dtype=x.dtype)
            return mean - right * (upstream / tf.maximum(one, least))

        return tf.squeeze(values, -1), backward

    return crossentropy(x)


class SparseCategoricalCrossentropy(
    FunctionLoss,
    function=sparse_categorical_crossentropy,
    order=("from_logits", "ignore_class", "reduction", "axis", "name", "dtype"),
):
    """`sparse_categorical_crossentropy` as a class, with the reductions of `Loss`.

    The mean leaves out the rows of `ignore_class`.
    """


class CategoricalGeneralizedCrossEntropy(
    FunctionLoss, function=categorical_generalized_cross_entropy, defaults={"q": 0.5}
):
    """`categorical_generalized_cross_entropy` as a class, with the reductions of `Loss` and `q` of one half."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        check_q(self.arguments["q"])
