"""The count of samples that a guarded loss did not use: in the logs, or else in one line when the script ends."""

from __future__ import annotations

import atexit
import sys
from collections import Counter
from typing import Any

import keras
import tensorflow as tf

_counters: list[SampleCount] = []


class SampleCount(keras.metrics.Metric):  # type: ignore[misc]
    """How many samples were left out, or replaced, since the last reset.

    Args:
        name: Its name in the logs.
        did: What was done to the samples, for the line at the end.
    """

    def __init__(self, name: str, *, did: str = "ignored") -> None:
        super().__init__(name=name, dtype="float32")
        self.did = did
        self.is_shown = False
        self.strategy = tf.distribute.get_strategy()
        self._num_before_resets = 0.0
        self.num = self.add_variable(shape=(), initializer="zeros", name="num")
        if not _counters:
            atexit.register(_tell_what_no_log_showed)
        _counters.append(self)

    def update_state(self, num: Any) -> None:
        """Adds a number of samples."""
        self.num.assign_add(tf.cast(num, self.num.dtype))

    def result(self) -> tf.Tensor:
        """Gives the number of samples. Whoever asks is taken to show it."""
        self.is_shown = True
        return tf.convert_to_tensor(self.num)

    def reset_state(self) -> None:
        """Starts at 0 again, as Keras does with each epoch."""
        if not self.is_shown and tf.executing_eagerly():
            self._num_before_resets += float(tf.convert_to_tensor(self.num))
        self.num.assign(0.0)

    def num_unseen(self) -> int:
        """Gives how many samples no log showed."""
        num_now = 0.0 if self.is_shown else float(tf.convert_to_tensor(self.num))
        return int(self._num_before_resets + num_now)


def _tell_what_no_log_showed() -> None:
    unseen: Counter[str] = Counter()
    for counter in _counters:
        unseen[counter.name] += counter.num_unseen()
    parts = [f"{num} {name}" for name, num in unseen.items() if num]
    if parts:
        print(f"nanguard: samples of guarded losses that no log showed: {', '.join(parts)}", file=sys.stderr)
