"""Which rows of the batch brought an incident, proven by running the step again without them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend.values import array
from nanguard.capture import Capture, TracedStep
from nanguard.guard import variables as script_variables
from nanguard.replay.program import Program

_MOST_RUNS = 80
_MOST_SECONDS = 8.0


@dataclass(frozen=True)
class Entry:
    """One tensor of the batch: its name, and the numbers of its parts, one for each replica."""

    name: str
    parts: tuple[int, ...]


class Batch:
    """The data tensors of a step, row by row.

    Args:
        program: The replayed step.
        entries: Tensors whose first axis counts the same rows.
        size: Number of rows, of all replicas together.
    """

    def __init__(self, program: Program, entries: list[Entry], size: int) -> None:
        self._program = program
        self.entries = entries
        self.size = size

    @property
    def numbers(self) -> set[int]:
        """Numbers of all its tensors."""
        return {number for entry in self.entries for number in entry.parts}

    def array(self, entry: Entry) -> np.ndarray:
        """One tensor of the batch, the replicas' parts in one."""
        return np.concatenate([array(self._program.values[number]) for number in entry.parts])

    def entry(self, number: int) -> tuple[Entry, int] | None:
        """The entry that a tensor belongs to, with the number of the first row of its part."""
        for entry in self.entries:
            first = 0
            for part in entry.parts:
                if part == number:
                    return entry, first
                first += int(self._program.values[part].shape[0])
        return None

    def only(self, rows: Sequence[int], *, is_padded: bool) -> dict[int, Any]:
        """The batch with these rows alone, by tensor number.

        Args:
            rows: Rows to keep.
            is_padded: Whether rows are repeated until the batch has its old size, for steps of a fixed shape. On
                several replicas they always are: one that is left without rows has no finite loss.
        """
        if is_padded or any(len(entry.parts) > 1 for entry in self.entries):
            rows = [rows[place % len(rows)] for place in range(self.size)]
        result = {}
        for entry in self.entries:
            parts = [self._program.values[number] for number in entry.parts]
            whole = tf.concat(parts, 0) if len(parts) > 1 else parts[0]
            kept = tf.gather(whole, tf.constant(list(rows), tf.int32))
            first = 0
            for number, part in zip(entry.parts, parts, strict=True):
                length = len(rows) if len(parts) == 1 else int(part.shape[0])
                result[number] = kept[first : first + length]
                first += length
        return result


def of_capture(capture: Capture, program: Program) -> Batch | None:
    """The batch of a captured step; None if nothing in it looks like rows."""
    entries = _entries(_candidates(capture, program), program, _num_replicas(capture))

    def size(entry: Entry) -> int:
        return sum(int(program.values[number].shape[0]) for number in entry.parts)

    def holds_features(entry: Entry) -> bool:
        value = program.values[entry.parts[0]]
        return bool(value.dtype.is_floating) and value.shape.rank > 1

    entries = [entry for entry in entries if size(entry)]
    sizes = [size(entry) for entry in entries if holds_features(entry)] or [size(entry) for entry in entries]
    if not sizes:
        return None
    rows = Counter(sizes).most_common(1)[0][0]
    return Batch(program, [entry for entry in entries if size(entry) == rows], rows)


def _entries(candidates: list[tuple[str, int]], program: Program, replicas: int) -> list[Entry]:
    """The tensors, with the parts of several replicas in one: a step is given them side by side."""
    found = []
    while candidates:
        name = candidates[0][0]
        parts = tuple(number for _, number in candidates[:replicas])
        kinds = {(program.values[number].dtype, tuple(program.values[number].shape[1:])) for number in parts}
        # The parts differ in their number of rows at most: the last batch need not be a full one.
        if len(parts) < replicas or len(kinds) > 1:
            parts = parts[:1]
        found.append(Entry(name, parts))
        candidates = candidates[len(parts) :]
    return found


def _candidates(capture: Capture, program: Program) -> list[tuple[str, int]]:
    """Names and numbers of the tensors that may be data: the step's arguments, or else what it closed over."""
    leaves = [(f"input {place}", number) for place, number in enumerate(sorted(program.leaves))]
    if isinstance(capture.body, TracedStep):
        graph = capture.body.graph
        captured = {id(inside) for _, inside in graph.captures}
        arguments = [
            (tensor.name.split(":")[0], program.numbers[id(tensor)])
            for tensor in graph.inputs
            if id(tensor) in program.numbers and id(tensor) not in captured
        ]
        arguments = [pair for pair in arguments if _is_data(program.values[pair[1]])]
        if arguments:
            return arguments
    return [pair for pair in leaves if pair[1] not in program.pinned and _is_data(program.values[pair[1]])]


def _is_data(value: Any) -> bool:
    return value.dtype not in (tf.resource, tf.variant) and value.shape.rank is not None and value.shape.rank >= 1


def _num_replicas(capture: Capture) -> int:
    for variable, _ in (*capture.targets.gradients, *capture.targets.updates):
        values = getattr(script_variables.raw(variable), "_values", None)
        if values:
            return len(values)
    return 1


class Proof:
    """Runs the step on parts of the batch.

    Args:
        program: The replayed step.
        batch: Its batch.
        targets: Numbers of the tensors that must be finite.
    """

    def __init__(self, program: Program, batch: Batch, targets: Sequence[int]) -> None:
        self._program = program
        self._batch = batch
        self._targets = list(targets)
        self._is_fixed = False
        self._runs = 0
        self._num_bad = 0
        self._until = time.monotonic() + _MOST_SECONDS

    def is_exhausted(self) -> bool:
        """Whether enough runs were made."""
        return self._runs >= _MOST_RUNS or time.monotonic() > self._until

    def is_finite(self, rows: Sequence[int]) -> bool:
        """Whether the step is finite on these rows alone."""
        if not rows:
            return False
        for is_padded in (False, True) if not self._is_fixed else (True,):
            self._runs += 1
            result = self._program.is_finite_with(self._targets, leaves=self._batch.only(rows, is_padded=is_padded))
            if result is not None:
                return result
            self._is_fixed = True  # the step holds the size of its batch
        return False

    def culprits(self, suspects: Sequence[int]) -> list[int] | None:
        """Finds the rows without which the step is finite; None if it is not a matter of rows.

        Args:
            suspects: Rows that are likely to be to blame, tried first.
        """
        every = range(self._batch.size)
        if suspects and len(suspects) < self._batch.size:
            found = self._narrow(sorted(set(suspects)))
            if found is not None:
                return found
        bad = self._bisect(list(every))
        if bad and len(bad) < self._batch.size and self.is_finite([row for row in every if row not in bad]):
            return bad
        return self._by_removal(list(every))

    def _narrow(self, suspects: list[int]) -> list[int] | None:
        others = [row for row in range(self._batch.size) if row not in suspects]
        if not self.is_finite(others):
            return None
        if len(suspects) == 1:
            return suspects
        guilty = []
        for row in suspects:
            if self.is_exhausted():
                return suspects
            if not self.is_finite(sorted([*others, row])):
                guilty.append(row)
        if guilty == suspects:
            return suspects
        rest = [row for row in range(self._batch.size) if row not in guilty]
        return guilty if guilty and self.is_finite(rest) else suspects

    def _by_removal(self, rows: list[int]) -> list[int] | None:
        """The one row that is to blame but harmless alone, such as one that is far from all others."""
        while len(rows) > 1 and not self.is_exhausted():
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                if self.is_finite([row for row in range(self._batch.size) if row not in half]):
                    rows = half
                    break
            else:
                return None
        return rows if len(rows) == 1 < self._batch.size else None

    def _bisect(self, rows: list[int]) -> list[int] | None:
        """The rows that are bad by themselves; None if the search has to be given up."""
        if self.is_exhausted() or self._num_bad > max(self._batch.size // 2, 1):
            return None
        if self.is_finite(rows):
            return []
        if len(rows) == 1:
            self._num_bad += 1
            return rows
        middle = len(rows) // 2
        first, second = self._bisect(rows[:middle]), None
        if first is not None:
            second = self._bisect(rows[middle:])
        return None if first is None or second is None else first + second
