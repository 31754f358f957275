"""Follows gradients from a random point to where an op of the function has a hazard.

The function is traced once, and the ops in it that the catalogue knows are asked for the operands that strike. From any
point a step of Newton's method moves one element of such an operand to the edge of a region, or beyond it. So a pole is
found that no random number meets, such as that of `1 / (x - 0.73)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard import hazards
from nanguard.backend import graphs
from nanguard.intervals import FLOAT_FORMATS, Interval, float_format
from nanguard.testing._subject import Point, Subject

Aim = tuple[int, float]
"""Which of the operands that were found, and the number that an element of it is to be."""

_MOST_OPERANDS = 32
_ANY_OP_PHASES = ("forward", "backward")


class Guide:
    """Knows the operands inside a subject that may strike a hazard, and moves points towards them.

    Args:
        subject: What is traced.
        dtype: The float dtype of its operands.
    """

    num_steps = 8

    def __init__(self, subject: Subject, dtype: str) -> None:
        # The ops of a traced function that is called are out of sight.
        self._subject = replace(subject, function=getattr(subject.function, "python_function", subject.function))
        self._dtype = dtype
        self._floats = [place for place, domain in enumerate(subject.domains) if domain.is_float]
        self._regions: list[tuple[float, ...]] = []
        self._is_traced = False
        self._function: Any = None
        self.aims: list[Aim] = self._find_aims() if self._floats else []

    def _find_aims(self) -> list[Aim]:
        function = self._trace(self._moved, (None,)) or self._trace(self._one_moved, ())
        if function is None:
            return []
        self._function = function
        return [(place, target) for place, targets in enumerate(self._regions) for target in targets]

    def _trace(self, function: Any, batch: tuple[None, ...]) -> Any | None:
        """Traces a function of stacked points, or of one; None if that cannot be done."""
        domains = self._subject.domains
        specs = [tf.TensorSpec((*batch, *domain.shape), domain.dtype_in(self._dtype)) for domain in domains]
        aim = (tf.TensorSpec(batch, tf.int32), tf.TensorSpec(batch, tf.float64))
        self._is_batched = bool(batch)
        self._is_traced = False
        try:
            return tf.function(function, autograph=False).get_concrete_function(specs, *aim)
        except Exception:  # whatever a user's function, or its vectorisation, may raise
            return None

    def step(self, points: Point, aims: Sequence[Aim]) -> Point | None:
        """Moves each point of a stack one step towards its aim; None if the function raised."""
        which = np.array([place for place, _ in aims], np.int32)
        targets = np.array([target for _, target in aims], np.float64)
        try:
            if self._is_batched:
                moves = self._run(points, which, targets)
            else:
                each = [self._run(tuple(x[k] for x in points), which[k], targets[k]) for k in range(len(which))]
                moves = [np.stack(parts) for parts in zip(*each, strict=True)]
        except (tf.errors.OpError, ValueError, TypeError):
            return None
        moved = list(points)
        for place, move in zip(self._floats, moves, strict=True):
            step = np.nan_to_num(move, nan=0.0, posinf=0.0, neginf=0.0)
            with np.errstate(over="ignore"):
                moved[place] = self._subject.domains[place].project(points[place] - step, self._dtype)
        return tuple(moved)

    def _run(self, points: Point, which: Any, targets: Any) -> list[np.ndarray]:
        moves = self._function(self._subject.tensors(points, self._dtype), tf.constant(which), tf.constant(targets))
        return [each.numpy() for each in moves]

    def _moved(self, points: list[Any], which: Any, targets: Any) -> Any:
        return tf.vectorized_map(
            lambda each: self._one_moved(each[0], each[1], each[2]),
            (points, which, targets),
            fallback_to_while_loop=True,
        )

    def _one_moved(self, operands: list[Any], which: Any, target: Any) -> list[Any]:
        graph = graphs.current()
        first = graphs.num_operations(graph)
        with tf.GradientTape() as tape:
            asked = [operands[place] for place in self._floats]
            tape.watch(asked)
            outputs = self._subject.floats([tf.identity(each) for each in operands])
            found = self._find(graph, first, asked, outputs)
            total = tf.constant(0.0, tf.float64)
            distance = tf.constant(0.0, tf.float64)
            for place, tensor in enumerate(found):
                flat = tf.cast(tf.reshape(tensor, [-1]), tf.float64)
                apart = flat - target
                # A number that is there already has no further to go: another element is moved.
                weight = tf.where(
                    tf.equal(apart, 0) | ~tf.math.is_finite(apart),
                    tf.fill(tf.shape(apart), tf.constant(math.inf, tf.float64)),
                    tf.abs(apart),
                )
                nearest = tf.one_hot(tf.argmin(weight), tf.size(flat), dtype=tf.float64)
                is_meant = tf.cast(tf.equal(which, place), tf.float64)
                element = tf.reduce_sum(tf.where(nearest > 0, flat, tf.zeros_like(flat)))
                total += tf.where(is_meant > 0, element, tf.zeros_like(element))
                distance += tf.where(
                    is_meant > 0,
                    tf.reduce_sum(tf.where(nearest > 0, apart, tf.zeros_like(apart))),
                    tf.constant(0.0, tf.float64),
                )
        slopes = tape.gradient(total, asked, unconnected_gradients="zero")
        slopes = [_finite(tf.cast(each, tf.float64)) for each in slopes]
        steepness = tf.add_n([tf.reduce_sum(each * each) for each in slopes])
        length = tf.math.divide_no_nan(distance, steepness)
        return [each * length for each in slopes]

    def _find(self, graph: Any, first: int, asked: list[Any], outputs: list[Any]) -> list[Any]:
        """The tensors to drive, with the numbers to drive them to, among the ops that were made since `first`."""
        reached = {id(tensor) for tensor in asked}
        found: dict[int, tuple[Any, dict[float, None]]] = {}
        for op in graph.get_operations()[first:]:
            if not any(id(tensor) in reached for tensor in op.inputs):
                continue
            reached.update(id(tensor) for tensor in op.outputs)
            for place, target in _targets(op):
                tensor = op.inputs[place]
                if id(tensor) in reached and (id(tensor) in found or len(found) < _MOST_OPERANDS):
                    found.setdefault(id(tensor), (tensor, {}))[1][target] = None
        for output in outputs:
            if output.dtype.name in FLOAT_FORMATS and id(output) in reached:
                largest = float_format(output.dtype.name).max
                for target in (largest, -largest):
                    found.setdefault(id(output), (output, {}))[1][target] = None
        if not self._is_traced:
            self._is_traced = True
            self._regions = [tuple(targets) for _, targets in found.values()]
        return [tensor for tensor, _ in found.values()]


def _targets(op: Any) -> Iterator[tuple[int, float]]:
    """Gives the operands of an op that its hazards speak of, and numbers that strike."""
    for phase in _ANY_OP_PHASES:
        for hazard in hazards.for_op(op.type, phase):  # type: ignore[arg-type]
            for region in hazard.regions(op.type):
                for part in region.parts:
                    if part.operand >= len(op.inputs):
                        continue
                    dtype = op.inputs[part.operand].dtype.name
                    if dtype in FLOAT_FORMATS and dtype in hazard.dtypes:
                        for target in _edge(part.interval(dtype), dtype):
                            yield part.operand, target


def _edge(interval: Interval, dtype: str) -> list[float]:
    """Gives numbers of an interval: its ends that are finite, one a little inside, and 0."""
    found = []
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        found += [interval.low, interval.high, (interval.low + interval.high) / 2]
    elif math.isfinite(interval.high):
        found += [interval.high, interval.high - max(abs(interval.high) * 0.1, 0.1)]
    elif math.isfinite(interval.low):
        found += [interval.low, interval.low + max(abs(interval.low) * 0.1, 0.1)]
    largest = float_format(dtype).max
    return [each for each in dict.fromkeys((*found, 0.0)) if each in interval and abs(each) <= largest]


def _finite(x: Any) -> Any:
    return tf.where(tf.math.is_finite(x), x, tf.zeros_like(x))
