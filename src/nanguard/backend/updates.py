"""The update that a Keras optimizer makes of one weight: its learning rate, and its second moment of the gradient."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from nanguard.errors import UsageError

# By which the second moment of an optimizer without Adam's correction for its start is known.
_UNCORRECTED = "rho"


def iterations(optimizer: Any) -> Any:
    """The count of an optimizer's updates, where a loss scale or a guard stands around it too."""
    # Keras 3.6 leaves a loss scale's own count at 0.
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer.iterations


def second_moment(optimizer: Any, variable: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gives `v`, `kept` and `added`, so that `kept * v + added * g**2` is the second moment after a gradient `g`.

    With the correction for its start if the optimizer makes one, as Adam does and RMSprop does not.

    Raises:
        UsageError: If the optimizer keeps no second moment.
    """
    velocities = getattr(optimizer, "_velocities", None)
    decay = getattr(optimizer, "beta_2", getattr(optimizer, _UNCORRECTED, None))
    if velocities is None or decay is None:
        raise UsageError(
            "Update clipping needs an optimizer with a second moment: Adam, AdamW, Nadam, Lamb or RMSprop. "
            f"Received: {type(optimizer).__name__}. For any optimizer: ClipByGlobalNorm."
        )
    before = tf.convert_to_tensor(velocities[optimizer._get_variable_index(variable)])
    decay = float(decay)
    kept, added = tf.constant(decay), tf.constant(1 - decay)
    if hasattr(optimizer, "beta_2"):
        step = tf.cast(tf.convert_to_tensor(optimizer.iterations) + 1, tf.float32)
        # Not 1 - decay**step, which for 0.999 in float32 is wrong in the fifth digit.
        start = -tf.math.expm1(step * math.log(decay)) if decay > 0 else tf.constant(1.0)
        kept, added = kept / start, added / start
    return before, kept, added


@contextlib.contextmanager
def scaled_updates(optimizer: Any, clip: Any) -> Iterator[None]:
    """While it is open, the learning rate of each of the optimizer's updates is multiplied by `clip.rate(...)`.

    Replicas of one process may each open it; the update is scaled once. A clip of None leaves the update as it is.
    """
    if clip is None:
        yield
        return
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    own = vars(optimizer)
    scaled = own.get("update_step")
    if isinstance(scaled, _ScaledUpdate):
        scaled.num_open += 1
    else:
        scaled = _ScaledUpdate(optimizer, optimizer.update_step, clip, own.get("update_step"))
        # Not setattr: Keras would track it, and save it.
        own["update_step"] = scaled
    try:
        yield
    finally:
        scaled.num_open -= 1
        if not scaled.num_open:
            if scaled.previous is None:
                del own["update_step"]
            else:
                own["update_step"] = scaled.previous


class _ScaledUpdate:
    def __init__(self, optimizer: Any, update_step: Any, clip: Any, previous: Any) -> None:
        self.optimizer = optimizer
        self.update_step = update_step
        self.clip = clip
        self.previous = previous
        self.num_open = 1

    def __call__(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        factor = self.clip.rate(self.optimizer, gradient, variable)
        if factor is not None:
            learning_rate = tf.convert_to_tensor(learning_rate)
            learning_rate *= tf.cast(factor, learning_rate.dtype)
        return self.update_step(gradient, variable, learning_rate)


@contextlib.contextmanager
def shared_reads(optimizer: Any) -> Iterator[None]:
    """While an update is traced: the step count and the learning rate are read once, and not once for each weight.

    What Adam makes of them is then the same for all weights, and TensorFlow computes it once. The first write to one of
    them ends that.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    found = [getattr(optimizer, name, None) for name in ("_iterations", "_learning_rate")]
    values: list[Any] = [getattr(each, "_value", None) for each in found]
    variables = [variable for variable in values if _is_plain(variable)]
    if tf.executing_eagerly():
        variables = []
    for variable in variables:
        variable._cached_value = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
        for name in _WRITES:
            vars(variable)[name] = _forgetful(variable, getattr(variable, name))
    try:
        yield
    finally:
        for variable in variables:
            variable._cached_value = None
            for name in _WRITES:
                del vars(variable)[name]


_WRITES = ("assign", "assign_add", "assign_sub")


def _is_plain(variable: Any) -> bool:
    # Of several replicas one may trace while another waits.
    is_alone = not tf.distribute.has_strategy()
    return is_alone and hasattr(variable, "handle") and getattr(variable, "_cached_value", 0) is None


def _forgetful(variable: Any, write: Any) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        variable._cached_value = None
        return write(*args, **kwargs)

    return wrapped
