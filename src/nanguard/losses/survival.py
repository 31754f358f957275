"""Losses of survival analysis."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._coupled import Coupled, column, lowest_of, presence, with_nan_of
from nanguard.losses._entry import admit, admit_target, dismiss, registered
from nanguard.ops._bounds import check_choice, format_of
from nanguard.ops._operation import TensorLike, to_float


@registered
def cox_partial_likelihood(
    y_true: TensorLike,
    y_pred: TensorLike,
    ties: Literal["breslow", "efron"] = "breslow",
    present: TensorLike | None = None,
) -> tf.Tensor:
    """Negative logarithm of Cox's partial likelihood, as one term for each sample.

    A sample with an event gives `log(sum(exp(h_j))) - h_i` over all `j` at risk, whose time is not before its own; a
    censored one gives 0, and so does a batch without events. The largest exponent is taken out of each sum. With the
    reduction "sum" the loss is the negative log partial likelihood, by default that over the batch size. NaN stays NaN.

    With "efron" every two samples are compared, which takes memory of the batch size squared.

    Args:
        y_true: Shape (batch, 2): the time, and 1 for an event or 0 for a censored sample.
        y_pred: Logarithms of the relative hazards, shape (batch,) or (batch, 1).
        ties: What is done with events at one time: "breslow" leaves all of them at risk, "efron" a falling share,
            which is nearer to the truth where ties are many. Defaults to "breslow", which is exact without ties.
        present: Which samples take part, shape (batch,). The class fills it in from weights and masks.

    Returns:
        Tensor of shape (batch,).

    Raises:
        ValueError: If there is no such `ties`.

    Example:

    >>> cox_partial_likelihood([[1.0, 1.0], [2.0, 0.0]], [0.0, 0.0]).numpy()
    array([0.6931472, 0.       ], dtype=float32)

    Cures:
        NG201 exp-overflow, NG101 log-of-nonpositive

    References:
        Efron, *The Efficiency of Cox's Likelihood Function for Censored Data*, JASA 1977.
    """
    check_choice("ties", ties, ("breslow", "efron"))
    y_pred = to_float(y_pred)
    hazard = column(admit(y_pred))
    here = presence(present, hazard)
    y_true = tf.convert_to_tensor(y_true)
    # Not in the dtype of the predictions: times that round to one number would be ties.
    time, event = y_true[:, 0], admit_target(y_true[:, 1], hazard, 0.0, 1.0) * tf.cast(here, hazard.dtype)
    if ties == "breslow":
        log_total = _log_sum_at_risk(time, tf.where(here, hazard, lowest_of(hazard)))
    else:
        log_total = _log_sum_after_efron(time, hazard, event, here)
    return dismiss(with_nan_of(event * (log_total - hazard), time), y_pred.dtype)


class CoxPartialLikelihood(Coupled, FunctionLoss, function=cox_partial_likelihood):
    """Cox's partial likelihood as a loss class; see `cox_partial_likelihood`."""


def _log_sum_at_risk(time: tf.Tensor, hazard: tf.Tensor) -> tf.Tensor:
    """Gives for each sample the logarithm of the sum of the hazards of those whose time is not before its own."""
    early = -tf.where(tf.math.is_nan(time), tf.zeros_like(time), time) if time.dtype.is_floating else -time
    order = tf.argsort(early, stable=True)
    sums = tf.math.cumulative_logsumexp(tf.gather(hazard, order))
    # Those of one time share the sum at the last of them.
    return tf.gather(sums, tf.searchsorted(tf.gather(early, order), early, side="right") - 1)


def _log_sum_after_efron(time: tf.Tensor, hazard: tf.Tensor, event: tf.Tensor, here: tf.Tensor) -> tf.Tensor:
    """Gives the same, with the share of each tied event falling by those before it."""
    at_risk = (time[None, :] >= time[:, None]) & here[None, :]
    share = tf.cast(at_risk, hazard.dtype) - _share_of_the_fallen(time, event)
    exponents = tf.where(at_risk, hazard[None, :], lowest_of(hazard))
    largest = tf.stop_gradient(tf.reduce_max(exponents, axis=1, keepdims=True))
    total = tf.reduce_sum(share * tf.exp(exponents - largest), axis=1)
    return tf.math.log(tf.maximum(total, format_of(total).floor)) + tf.squeeze(largest, 1)


def _share_of_the_fallen(time: tf.Tensor, event: tf.Tensor) -> tf.Tensor:
    """Gives Efron's share by which each tied event is no longer at risk when the next of them falls."""
    tied = tf.cast(time[None, :] == time[:, None], event.dtype) * event[None, :]
    before = tf.reduce_sum(tf.linalg.band_part(tied, -1, 0) - tf.linalg.band_part(tied, 0, 0), axis=1)
    return tied * tf.math.divide_no_nan(before, tf.reduce_sum(tied, axis=1))[:, None]
