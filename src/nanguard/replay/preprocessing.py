"""Where the user's own preprocessing made bad data, if it ran as TensorFlow ops before the step."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend.values import array, holds_floats, is_finite
from nanguard.capture import Capture, Event, RecordedStep, Targets
from nanguard.guard import source
from nanguard.replay import births, origin, program
from nanguard.replay.births import Birth
from nanguard.replay.program import Program

_MOST_SECONDS = 4.0
_MOST_ELEMENTS = 100_000


@dataclass(frozen=True)
class Made:
    """The op of the preprocessing that made a non-finite number.

    Args:
        program: The preprocessing, run again.
        birth: The op in it.
        rows: Rows of the data set that it spoilt, in order, as far as they were looked for; None if not known.
    """

    program: Program
    birth: Birth
    rows: tuple[int, ...] | None


def find(capture: Capture, bad_row: np.ndarray | None, num_rows: int) -> Made | None:
    """Looks for the op that spoilt the data: in the maps of the data set, then among the ops run before training.

    Args:
        capture: The failed step.
        bad_row: Features of one bad row, to tell one data set from another; None if no row is known.
        num_rows: How many bad rows to look for.
    """
    found = _again(capture) if capture.is_stored else None
    if found is not None:
        return found
    for dataset in _datasets(capture) if not capture.is_stored else ():
        for mapped in _maps(dataset):
            found = _in_map(capture, mapped, num_rows)
            if found is not None:
                return found
    return _before_training(capture, bad_row)


def _again(capture: Capture) -> Made | None:
    """What was found when the data pipeline was at hand, made again from the function and its inputs."""
    if capture.answers.mapped is None:
        return None
    graph, inputs, rows = capture.answers.mapped
    found = _birth_in(graph, inputs)
    return Made(found[0], found[1], rows) if found is not None else None


def _datasets(capture: Capture) -> list[Any]:
    given = [value for fit in capture.sources for value in (*fit["args"], *fit["kwargs"].values())]
    given = [value for value in given if isinstance(value, tf.data.Dataset)]
    if given:
        return given
    found: list[Any] = []
    frame = sys._getframe(1)
    while frame is not None:
        if source.is_users(frame.f_code.co_filename):
            for values in (frame.f_locals, frame.f_globals):
                found += [value for value in values.values() if isinstance(value, tf.data.Dataset)]
        frame = frame.f_back  # type: ignore[assignment]
    # A data set that no variable holds, such as one made in the head of a loop.
    return found or [thing for thing in gc.get_objects() if issubclass(type(thing), tf.data.Dataset)]


def _maps(dataset: Any) -> list[Any]:
    """The maps of a pipeline, the one nearest to the source first."""
    found, current = [], dataset
    for _ in range(100):
        if getattr(current, "_map_func", None) is not None:
            found.append(current)
        current = getattr(current, "_input_dataset", None) or getattr(current, "_dataset", None)
        if current is None:
            break
    return found[::-1]


def _is_ordered(dataset: Any) -> bool:
    current = dataset
    while current is not None:
        if "Shuffle" in type(current).__name__:
            return False
        current = getattr(current, "_input_dataset", None) or getattr(current, "_dataset", None)
    return True


def _in_map(capture: Capture, mapped: Any, num_rows: int) -> Made | None:
    function = mapped._map_func.function
    until = time.monotonic() + _MOST_SECONDS
    found: tuple[Program, Birth] | None = None
    rows: list[int] = []
    bad_inputs: list[Any] = []
    count = 0
    for place, element in enumerate(mapped._input_dataset):
        flat = [value for value in tf.nest.flatten(element, expand_composites=True) if isinstance(value, tf.Tensor)]
        if place >= _MOST_ELEMENTS or time.monotonic() > until:
            break
        if any(holds_floats(value) and not is_finite(value) for value in flat):
            return None  # it was bad before
        try:
            outputs = [value for value in tf.nest.flatten(function(*flat)) if isinstance(value, tf.Tensor)]
        except (tf.errors.OpError, TypeError, ValueError):
            return None
        bad = [value for value in outputs if holds_floats(value) and not is_finite(value)]
        if bad:
            if found is None:
                found = _birth_in(function.graph, flat)
                if found is None:
                    return None
                bad_inputs = flat
            rows += _rows_of(bad[0], count, is_batched=_is_batched(mapped))
            if len(rows) >= num_rows:
                break
        count += int(flat[0].shape[0]) if _is_batched(mapped) and flat and flat[0].shape.rank else 1
    if found is None:
        return None
    is_known = _is_ordered(mapped._input_dataset) and len(rows) >= num_rows
    known = tuple(rows[:num_rows]) if is_known else None
    capture.answers.mapped = (function.graph, bad_inputs, known)
    return Made(found[0], found[1], known)


def _is_batched(mapped: Any) -> bool:
    current = mapped._input_dataset
    while current is not None:
        if "Batch" in type(current).__name__ and "Unbatch" not in type(current).__name__:
            return True
        current = getattr(current, "_input_dataset", None) or getattr(current, "_dataset", None)
    return False


def _rows_of(value: Any, first: int, *, is_batched: bool) -> list[int]:
    if not is_batched:
        return [first]
    numbers = array(value)
    bad = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
    return [first + int(row) for row in np.flatnonzero(bad)]


def _birth_in(graph: Any, inputs: list[Any]) -> tuple[Program, Birth] | None:
    replayed = program.of_graph(graph, inputs)
    targets = [replayed.numbers[id(tensor)] for tensor in graph.outputs if id(tensor) in replayed.numbers]
    return _birth(replayed, targets)


def _birth(replayed: Program, targets: list[int]) -> tuple[Program, Birth] | None:
    steps = births.Steps(replayed, targets, [])
    found = births.find(replayed, targets, steps, set(replayed.leaves), is_loss_finite=False)
    return (replayed, found[0]) if found and found[0].event is not None else None


def _before_training(capture: Capture, bad_row: np.ndarray | None) -> Made | None:
    if not capture.before:
        return None
    events = capture.before.events
    replayed = program.build(Capture(0, None, (), Targets(), RecordedStep(events, capture.before.tensors)))
    for event in reversed(replayed.events):
        if not _may_be_data(replayed, event) or not _holds(replayed, event, bad_row):
            continue
        found = _birth(replayed, [number for number in event.outputs if not replayed.is_finite(number)])
        if found is not None and origin.of_event(found[1].event).line is not None:  # type: ignore[arg-type]
            return Made(found[0], found[1], None)
    return None


def _may_be_data(replayed: Program, event: Event) -> bool:
    return any(not replayed.is_finite(number) and replayed.values[number].shape.rank for number in event.outputs)


def _holds(replayed: Program, event: Event, bad_row: np.ndarray | None) -> bool:
    """Whether one of the op's outputs holds the bad row."""
    if bad_row is None:
        return True
    return any(
        any(np.array_equal(row.reshape(-1), bad_row.reshape(-1), equal_nan=True) for row in rows)
        for number in event.outputs
        for rows in _row_views(replayed.values[number], bad_row.size)
    )


def _row_views(value: Any, size: int) -> Iterator[np.ndarray]:
    numbers = array(value)
    if numbers.size and numbers.size % size == 0 and numbers.dtype.kind == "f":
        rows = numbers.reshape(-1, size)
        yield rows[~np.isfinite(rows).all(axis=1)]
