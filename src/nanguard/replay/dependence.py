"""What a value of a step was made of: variables, the rows of the batch, or neither."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from nanguard.backend.values import array
from nanguard.capture import Event
from nanguard.replay.program import Program

# Ops that pass a probability on, whole or in part, up to a shift or a factor.
_PASSES_ON = frozenset({
    "Identity", "Reshape", "Minimum", "Maximum", "ClipByValue", "Cast", "StridedSlice", "Slice", "GatherV2", "GatherNd",
    "Mul", "Sum", "Mean", "Sub", "AddV2", "Squeeze", "ExpandDims", "Transpose", "SelectV2", "Pack", "ConcatV2", "Neg",
    "Relu", "Max", "Min", "Prod", "Split", "SplitV", "Unpack", "StopGradient", "RealDiv", "Abs",
})  # fmt: skip
_PROBABILITIES = frozenset({"Softmax", "Sigmoid"})
_VANISHING = 1e-30
_SHAPES = frozenset({"Shape", "Size", "ShapeN", "Rank"})


class Dependence:
    """Which tensors of a program are made of variables, and which of the batch.

    Args:
        program: The replayed step.
        batch: Numbers of the batch's tensors.
        weights: Identities of the handles of weights and layer state; all variables if None.
        losses: Numbers of the losses.
    """

    def __init__(
        self, program: Program, batch: Iterable[int], weights: set[int] | None = None, losses: Iterable[int] = ()
    ) -> None:
        self._program = program
        self._loss = 1 + max(
            (place for place in map(program.place, losses) if place is not None), default=len(program.events)
        )
        self.batch = frozenset(batch)
        self.on_batch: set[int] = set(self.batch)
        self.on_variables: set[int] = set()
        self.on_weights: set[int] = set()
        for event in program.events:
            inputs = set(event.inputs)
            if inputs & self.on_batch:
                self.on_batch.update(event.outputs)
            reads = [
                program.values[number]
                for number in event.inputs
                if number in program.values and program.values[number].dtype == tf.resource
            ]
            if inputs & self.on_variables or reads:
                self.on_variables.update(event.outputs)
            if inputs & self.on_weights or any(
                weights is None or getattr(handle, "_id", None) in weights for handle in reads
            ):
                self.on_weights.update(event.outputs)

    def is_data_only(self, event: Event) -> bool:
        """Whether an op computes on the batch alone: no variable has a part in it."""
        numbers = set(event.inputs)
        return bool(numbers & self.on_batch) and not numbers & self.on_variables

    def is_schedule(self, event: Event) -> bool:
        """Whether an op computes on the step's number and constants alone: neither on the batch nor on weights."""
        numbers = set(event.inputs)
        return not numbers & self.on_batch and not numbers & self.on_weights

    def consumers(self, number: int) -> list[Event]:
        """The ops that take a tensor."""
        return [event for event in self._program.events if number in event.inputs]

    def is_label(self, leaf: int) -> bool:
        """Whether a tensor of the batch first meets the model's output rather than the model's weights.

        A feature is multiplied by weights, or looked up in them; a label is compared with what the model made of the
        features.
        """
        derived = {leaf}
        met_output = False
        for event in self._program.events[: self._loss]:
            if not event.outputs or not derived & set(event.inputs):
                continue
            for number in event.inputs:
                if number in derived or self._is_scalar(number):
                    continue
                if number in self.on_variables or self._is_handle(number):
                    if number not in self.on_batch:
                        return False
                    met_output = True
            derived.update(event.outputs)
        return met_output

    def _is_scalar(self, number: int) -> bool:
        value = self._program.values.get(number)
        return value is not None and value.dtype != tf.resource and value.shape.rank == 0

    def _is_handle(self, number: int) -> bool:
        value = self._program.values.get(number)
        return value is not None and value.dtype == tf.resource

    def comes_from_probability(self, number: int) -> bool:
        """Whether a tensor is a softmax or sigmoid output, or was made of one by slicing, clipping, scaling or sums."""
        waiting, seen = [(number, 0)], set()
        while waiting:
            current, depth = waiting.pop()
            if current in seen or depth > 14:
                continue
            seen.add(current)
            event = self._program.maker(current)
            if event is None:
                continue
            if event.op in _PROBABILITIES or self._is_softmax_by_hand(event):
                return True
            if event.op in _PASSES_ON:
                # Of the factors of a product, only one that is 0 somewhere can have made it 0.
                factors = [each for each in event.inputs if event.op != "Mul" or self._vanishes(each)]
                waiting += [(each, depth + 1) for each in factors]
        return False

    def _vanishes(self, number: int) -> bool:
        values = array(self._program.values[number])
        return values.dtype.kind == "f" and bool((np.abs(values) < _VANISHING).any())

    def _is_softmax_by_hand(self, event: Event) -> bool:
        """Whether a quotient is `exp(z) / sum(exp(z))` or `1 / (1 + exp(z))`, as people write them."""
        if event.op not in ("RealDiv", "Reciprocal"):
            return False
        top = self._program.maker(event.inputs[0]) if event.op == "RealDiv" else None
        below = self._program.maker(event.inputs[-1])
        if below is None:
            return False
        if top is not None and top.op == "Exp":
            return event.inputs[0] in self._nearest(event.inputs[1], depth=3)
        return below.op == "AddV2" and any(
            (maker := self._program.maker(number)) is not None and maker.op == "Exp" for number in below.inputs
        )

    def _nearest(self, number: int, depth: int) -> set[int]:
        """A tensor and its ancestors up to a depth."""
        found, current = {number}, {number}
        for _ in range(depth):
            makers = [self._program.maker(each) for each in current]
            current = {each for maker in makers if maker is not None for each in maker.inputs}
            found |= current
        return found

    def is_made_of(self, number: int, ops: frozenset[str], depth: int = 6) -> bool:
        """Whether an op of the given types is among the nearest ancestors of a tensor."""
        waiting, seen = [(number, 0)], set()
        while waiting:
            current, level = waiting.pop()
            if current in seen or level > depth:
                continue
            seen.add(current)
            event = self._program.maker(current)
            if event is None:
                continue
            if event.op in ops:
                return True
            waiting += [(each, level + 1) for each in event.inputs]
        return False

    def is_count(self, number: int) -> bool:
        """Whether a tensor is the size of another, such as the number of selected rows."""
        return self.is_made_of(number, _SHAPES)

    def feeds(self, numbers: Iterable[int], ops: frozenset[str], depth: int = 6) -> bool:
        """Whether an op of the given types takes a tensor, or what is soon made of it."""
        current, seen = set(numbers), set()
        for _ in range(depth):
            events = [event for event in self._program.events if current & set(event.inputs)]
            if any(event.op in ops and event.forward is None for event in events):
                return True
            seen |= current
            current = {each for event in events if event.forward is None for each in event.outputs} - seen
            if not current:
                return False
        return False
