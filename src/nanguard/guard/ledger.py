"""What a guard counts and measures inside the step, in variables of its own."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from nanguard.backend import seams
from nanguard.guard import variables as script_variables

# Where a non-finite number was seen, in the order of `Ledger.seen`; the words of the report.
PLACES = ("loss", "gradients", "state", "weights")


class Ledger:
    """Counters of guarded steps. All are variables, so that they work in graphs, under XLA and in loops."""

    def __init__(self) -> None:
        def new(name: str, value: Any, dtype: Any = tf.float32) -> Any:
            return seams.new_variable(lambda: tf.constant(value, dtype), f"nanguard_{name}")

        self.skipped = new("skipped", 0, tf.int64)
        self.in_row = new("in_row", 0, tf.int64)
        self.overflows = new("overflows", 0, tf.int64)
        self.seen = new("seen", [False] * len(PLACES), tf.bool)
        self.last = new("last", -1, tf.int64)

    @property
    def variables(self) -> list[Any]:
        """The variables, for a checkpoint."""
        return [self.skipped, self.in_row, self.last, self.overflows, self.seen]

    def count(self, optimizer: Any) -> None:
        """Counts a step that is refused. A step that goes ahead costs nothing: the optimizer counts it already."""
        self.in_row.assign(self.row(optimizer) + 1)
        self.last.assign(_num_calls(optimizer))
        self.skipped.assign_add(1)

    def row(self, optimizer: Any) -> Any:
        """Steps refused in a row up to now: none, if the optimizer has made an update since the last."""
        iterations = _num_calls(optimizer)
        return tf.where(tf.equal(iterations, self.last.read_value()), self.in_row.read_value(), 0)

    def count_by_hand(self) -> None:
        """Counts a step that is refused, and that no optimizer counts."""
        self.in_row.assign_add(1)
        self.skipped.assign_add(1)
        self.seen.assign([False, False, False, True])

    def places(self) -> tuple[str, ...]:
        """Where the last step that was refused was not finite."""
        return tuple(place for place, is_bad in zip(PLACES, self.seen.numpy(), strict=True) if is_bad)


def _num_calls(optimizer: Any) -> Any:
    counter = script_variables.num_calls(optimizer)
    return tf.cast(tf.convert_to_tensor(optimizer.iterations if counter is None else counter), tf.int64)
