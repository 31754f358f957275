"""The circle loss: embeddings of one label near each other, of two labels far apart."""

from __future__ import annotations

import tensorflow as tf

from nanguard.backend.predictions import set_mask
from nanguard.losses._base import FunctionLoss
from nanguard.losses._rows import label_loss, widen
from nanguard.ops._bounds import clamp
from nanguard.ops._operation import TensorLike, to_float

# Embeddings have length 1 and distances are up to 2. So far beyond, the slope still has a finite square.
_LARGEST_ELEMENT = 2.0**20
_LARGEST_DISTANCE = 2.0**30
_NOTHING = -(2.0**100)


@label_loss
def circle(
    y_true: TensorLike,
    y_pred: TensorLike,
    ref_labels: TensorLike | None = None,
    ref_embeddings: TensorLike | None = None,
    remove_diagonal: bool = True,
    gamma: float = 80.0,
    margin: float = 0.4,
) -> tf.Tensor:
    """Circle loss over all pairs of embeddings, each pair weighed by how far it is from where it should be.

    For each embedding computes `log(1 + sum(exp(p)) * sum(exp(n)))`, with `p = gamma * (margin + d) * (d - margin)`
    over those of its own label and `n = gamma * (1 + margin - d) * (1 - margin - d)` over the others, at a cosine
    distance `d`. An embedding that has none of its own label, or none of another, has the value 0 and no gradient,
    where Keras may give NaN. The mean is over the embeddings whose value is not 0, as in Keras.

    A NaN in an embedding makes the loss of all that are compared with it NaN.

    Args:
        y_true: Labels, whole numbers, shape (batch,) or (batch, 1).
        y_pred: Embeddings of length 1, shape (batch, n). Elements count up to a million.
        ref_labels: Labels to compare with. Defaults to `y_true`.
        ref_embeddings: Embeddings to compare with. Defaults to `y_pred`.
        remove_diagonal: Whether embedding number i is not compared with number i. Defaults to True, since they are the
            same if nothing else is given.
        gamma: Scale, about 80 in the paper.
        margin: How far within one label and apart between two. Defaults to 0.4.

    Returns:
        Tensor of shape (batch,) and the dtype of `y_pred`; finite where that is.

    Example:

    >>> np.round(circle([0, 0, 1], [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), 4)
    array([ 0. , 38.4,  0. ], dtype=float32)

    References:
        Sun et al., *Circle Loss: A Unified Perspective of Pair Similarity Optimization*, CVPR 2020.
    """
    ref_labels = y_true if ref_labels is None else tf.convert_to_tensor(ref_labels)
    y_pred = clamp(y_pred, -_LARGEST_ELEMENT, _LARGEST_ELEMENT, gradient="straight_through")
    if ref_embeddings is None:
        ref_embeddings = y_pred
    else:
        ref_embeddings = tf.cast(widen(to_float(ref_embeddings)), y_pred.dtype)
        ref_embeddings = clamp(ref_embeddings, -_LARGEST_ELEMENT, _LARGEST_ELEMENT, gradient="straight_through")
    own, others = (tf.reshape(tf.cast(labels, tf.int32), [-1]) for labels in (y_true, ref_labels))
    is_same = tf.equal(own[:, None], others[None, :])
    is_other = tf.logical_not(is_same)
    if remove_diagonal:
        is_same &= tf.not_equal(tf.range(tf.size(own))[:, None], tf.range(tf.size(others))[None, :])
    distance = tf.nn.relu(1 - tf.matmul(y_pred, ref_embeddings, transpose_b=True))
    distance = clamp(distance, high=_LARGEST_DISTANCE, gradient="straight_through")
    near = gamma * tf.nn.relu(margin + distance) * (distance - margin)
    far = gamma * tf.nn.relu(1 + margin - distance) * (1 - margin - distance)
    values = tf.nn.softplus(_log_sum_exp(near, is_same) + _log_sum_exp(far, is_other))
    return set_mask(values, values > 0)


def _log_sum_exp(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Gives the logarithm of the sum of exponentials of what the mask keeps; a very negative number for nothing."""
    return tf.reduce_logsumexp(tf.where(mask, x, tf.constant(_NOTHING, x.dtype)), axis=1)


class Circle(FunctionLoss, function=circle, order=("gamma", "margin", "remove_diagonal", "reduction", "name", "dtype")):
    """`circle` as a class, with the reductions of `Loss`. The mean leaves out the rows whose value is 0."""
