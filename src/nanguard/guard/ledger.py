"""What a guard counts and measures inside the step, in a variable of its own."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from nanguard.backend import seams
from nanguard.guard import variables as script_variables

# Where a non-finite number was seen, in the order of `Ledger.seen`; the words of the report.
PLACES = ("loss", "gradients", "state", "weights")


class Count:
    """Some of the numbers of a ledger: reads and writes like a variable of its own.

    Args:
        numbers: The variable that holds them.
        place: Where they stand: an index for a scalar, a slice for a vector.
    """

    def __init__(self, numbers: Any, place: int | slice) -> None:
        self._numbers = numbers
        self._place = place

    def read_value(self) -> Any:
        """The value, int64."""
        return self._numbers.read_value()[self._place]

    def assign(self, value: Any) -> None:
        """Writes a value."""
        start = self._place if isinstance(self._place, int) else self._place.start
        value = tf.reshape(tf.cast(value, tf.int64), [-1])
        before = self._numbers.read_value()
        self._numbers.assign(tf.concat([before[:start], value, before[start + value.shape[0] :]], 0))

    def assign_add(self, value: Any) -> None:
        """Adds to the value."""
        self.assign(self.read_value() + tf.cast(value, tf.int64))

    def numpy(self) -> Any:
        """The value as NumPy gives it."""
        return self.read_value().numpy()

    def __int__(self) -> int:
        return int(self.read_value())

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        return tf.convert_to_tensor(self.read_value(), dtype, name=name)


class Ledger:
    """Counters of guarded steps, which work in graphs, under XLA and in loops.

    All are one variable: what a traced step takes from outside costs time in each call, whether it is used or not.
    """

    def __init__(self) -> None:
        first = [0, 0, -1, 0, *[0] * len(PLACES)]
        self._numbers = seams.new_variable(lambda: tf.constant(first, tf.int64), "nanguard_ledger")
        self.skipped, self.in_row, self.last, self.overflows = (Count(self._numbers, place) for place in range(4))
        self.seen = Count(self._numbers, slice(4, None))

    @property
    def variables(self) -> list[Any]:
        """The variables, for a checkpoint."""
        return [self._numbers]

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
