"""What the guard of a loss needs of Keras's and TensorFlow's private parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework import ops as _ops
from tensorflow.python.ops import control_flow_util as _control_flow_util


def is_compiled_by_xla() -> bool:
    """Whether what is being traced will be compiled by XLA, where shapes are fixed and no host code runs."""
    return not tf.executing_eagerly() and bool(_control_flow_util.GraphOrParentsInXlaContext(_ops.get_default_graph()))


def trainer_class() -> type:
    """Keras's class whose `metrics` are logged and reset by `fit` and `evaluate`."""
    from keras.src.trainers import trainer

    return trainer.Trainer  # type: ignore[no-any-return]


def log_metrics_of_losses(metrics_of: Callable[[Any], list[keras.metrics.Metric]]) -> None:
    """Has every model log, and reset each epoch, the metrics that its losses keep. Keras gives a loss no metrics.

    Args:
        metrics_of: Gives the metrics that the losses of a compiled model keep.
    """
    trainer = trainer_class()
    own = trainer.__dict__["metrics"]
    if hasattr(own.fget, "nanguards"):
        own.fget.nanguards = metrics_of
        return

    def metrics(model: Any) -> list[keras.metrics.Metric]:
        listed = own.fget(model)
        if not getattr(model, "compiled", False):
            return listed  # type: ignore[no-any-return]
        return [*listed, *metrics.nanguards(model)]  # type: ignore[attr-defined]

    metrics.nanguards = metrics_of  # type: ignore[attr-defined]
    trainer.metrics = property(metrics, doc=own.__doc__)  # type: ignore[attr-defined]


def function_loss_class() -> type:
    """The class by which Keras makes a loss of a function of `y_true` and `y_pred`."""
    from keras.src.losses import losses

    return losses.LossFunctionWrapper  # type: ignore[no-any-return]
