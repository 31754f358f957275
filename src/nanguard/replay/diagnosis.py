"""Which hazard struck, from where a non-finite number was born and what the operands were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard import hazards
from nanguard.backend import graphs
from nanguard.backend.values import array
from nanguard.capture import Capture, Event, Forward
from nanguard.findings import BornIn
from nanguard.hazards import Hazard, Region
from nanguard.intervals import FLOAT_FORMATS, Interval
from nanguard.replay import divergence, origin
from nanguard.replay.births import SELECTS, Birth, Phase
from nanguard.replay.dependence import Dependence
from nanguard.replay.program import Program

_READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd"})
_SOFTMAXES = frozenset(
    {"Softmax", "LogSoftmax", "SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"}
)
_CLIPPERS = frozenset({"clip_by_global_norm", "clip_by_norm", "global_norm", "clip_by_average_norm", "_clip_gradients"})

_NORM_OPS = frozenset({"L2Loss", "Square", "Sum", "Mul", "RealDiv"})


@dataclass(frozen=True)
class Struck:
    """The operands of the op to blame, and the place of one value that the hazard struck.

    Args:
        numbers: Numbers of the operands, in the op's order; None for one that the replay has not.
        operand: Which operand was struck.
        index: Index of one struck value in it, or None.
        rows: Indices along the first axis of that operand in which values were struck.
    """

    numbers: tuple[int | None, ...]
    operand: int
    index: tuple[int, ...] | None
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """What happened and to which operands."""

    born_in: BornIn
    hazard: Hazard | None
    event: Event | None
    struck: Struck | None
    notes: tuple[str, ...] = ()


class Doctor:
    """Tells the hazard behind a birth.

    Args:
        capture: The failed step.
        program: Its replay.
        dependence: What its values were made of.
        targets: Numbers of the losses and gradients, for running the step again.
    """

    def __init__(self, capture: Capture, program: Program, dependence: Dependence, targets: Sequence[int]) -> None:
        self._capture = capture
        self._program = program
        self._dependence = dependence
        self._targets = list(targets)

    def diagnose(self, birth: Birth) -> Diagnosis:
        """Gives the hazard, and where in the operands it struck."""
        if birth.event is None:
            return self._of_leaf(birth)
        event = birth.event
        if event.op in _READS:
            return Diagnosis("forward", hazards.WEIGHTS_NONFINITE_BEFORE_TRAINING, None, None)
        operands = self.operands(event)
        if self._is_clipping(event, birth.phase):
            return Diagnosis("update", hazards.CLIPPING_SPREADS_NAN, event, self.strike(event))
        if birth.phase == "update":
            return self._of_update(event, operands)
        struck = self._strike(event, birth.phase, operands)
        hazard, where = struck if struck is not None else (None, self._output_place(event, operands))
        special = self._pattern(birth, hazard, where)
        hazard = special if special is not None else hazard
        born_in: BornIn = birth.phase
        grown = divergence.of(self._capture, self._program, self._dependence, event, hazard)
        if grown is hazards.OUTLIER_ROWS:
            return Diagnosis("data", grown, None, where)
        if grown is not None:
            return Diagnosis("divergence", grown, event, where)
        if hazard is None:
            hazard = self._fallback(event, birth.phase)
        if birth.phase == "forward" and self._dependence.is_data_only(event):
            hazard, born_in = self._of_data(event, hazard)
        if hazard.phase == "data":
            born_in = "data"
        return Diagnosis(born_in, hazard, event, where)

    def strike(self, event: Event) -> Struck | None:
        """Where the operands of an op of the forward pass were struck."""
        found = self._strike(event, "forward", self.operands(event))
        return found[1] if found is not None else self._output_place(event, event.inputs)

    def without_outliers(self, birth: Birth) -> Diagnosis:
        """The diagnosis where no outlier row was found to be to blame."""
        assert birth.event is not None
        hazard = divergence.cause(self._capture, self._program, self._dependence, birth.event, with_outliers=False)
        return Diagnosis("divergence", hazard, birth.event, self._output_place(birth.event, birth.event.inputs))

    def _of_data(self, event: Event, hazard: Hazard) -> tuple[Hazard, BornIn]:
        """The hazard of an op that computes on the batch alone: labels that are wrong, or features scaled by 0."""
        if hazard.cause not in ("log_of_zero", "domain_error", "div_by_zero"):
            return hazard, "forward"
        sources = self._sources(event)
        if sources and all(map(self._dependence.is_label, sources)):
            # A label of 0 can be meant; one outside of the domain cannot.
            return (hazards.BAD_ANNOTATION, "data") if hazard.cause == "domain_error" else (hazard, "forward")
        rows = {int(self._program.values[number].shape[0]) for number in sources}
        if event.op == "RealDiv" and max(rows, default=0) > 1:
            return hazards.PREPROCESSING_MADE_NONFINITE, "data"
        return hazard, "forward"

    # -- births outside of the step

    def _of_leaf(self, birth: Birth) -> Diagnosis:
        assert birth.leaf is not None
        values = array(self._program.values[birth.leaf])
        bad = ~np.isfinite(values)
        struck = Struck((birth.leaf,), 0, _first(bad), _rows(bad))
        if self._capture.operands is not None:
            hazard = hazards.NAN_OR_INF_IN_FEATURES
        elif self._dependence.is_label(birth.leaf):
            hazard = hazards.MISSING_LABELS
        elif bad.ndim > 1 and len(bad) > 1 and bad.reshape(len(bad), -1).all(axis=0).any():
            hazard = hazards.PREPROCESSING_MADE_NONFINITE  # a column without one number: divided by its own spread
        else:
            hazard = hazards.NAN_OR_INF_IN_FEATURES
        return Diagnosis("data", hazard, None, struck)

    # -- births in the update

    def _of_update(self, event: Event, operands: tuple[int | None, ...]) -> Diagnosis:
        struck = self._strike(event, "forward", operands)
        where = struck[1] if struck is not None else self._output_place(event, operands)
        if self._dependence.is_schedule(event):
            return Diagnosis("update", hazards.LEARNING_RATE_SCHEDULE_NONFINITE, event, where)
        grown = divergence.of(self._capture, self._program, self._dependence, event, struck[0] if struck else None)
        if grown is not None:
            return Diagnosis("divergence", grown, event, where)
        return Diagnosis("update", hazards.OPTIMIZER_UPDATE_NONFINITE, event, where)

    def _is_clipping(self, event: Event, phase: Phase) -> bool:
        if event.forward is not None:
            return False
        if event.line is not None and not isinstance(event.line, tuple):
            return any(function in _CLIPPERS for _, _, function in graphs.frames(event.line))
        where = origin.where(event.line)
        if where is not None and "clip_by_" in where.code and phase != "forward":
            return True
        optimizer = getattr(self._capture.optimizer, "inner_optimizer", self._capture.optimizer)
        clips = getattr(optimizer, "global_clipnorm", None) or getattr(optimizer, "clipnorm", None)
        return bool(clips) and phase == "update" and event.op in _NORM_OPS

    # -- regions of the catalogue

    def forward_event(self, event: Event) -> Event | None:
        """The forward event whose gradient an event is."""
        forward = event.forward
        if forward is None:
            return None
        if isinstance(forward, Forward):
            return origin.recorded_forward(self._program, forward)
        for tensor in forward.outputs:
            number = self._program.numbers.get(id(tensor))
            if number is not None:
                return self._program.maker(number)
        return None

    def operands(self, event: Event) -> tuple[int | None, ...]:
        """Numbers of the operands to blame: of the forward op, for an op of the backward pass."""
        forward = event.forward
        if forward is None:
            return event.inputs
        if isinstance(forward, Forward):
            found = origin.recorded_forward(self._program, forward)
            return found.inputs if found is not None else forward.inputs
        return tuple(self._program.numbers.get(id(tensor)) for tensor in forward.inputs)

    def op(self, event: Event) -> str:
        """Type of the op to blame: of the forward op, for an op of the backward pass."""
        if event.forward is None:
            return event.op
        return event.forward.op if isinstance(event.forward, Forward) else str(event.forward.type)

    def _strike(self, event: Event, phase: Phase, operands: tuple[int | None, ...]) -> tuple[Hazard, Struck] | None:
        values = [
            array(self._program.values[number]) if number is not None and number in self._program.values else None
            for number in operands
        ]
        floats = [
            self._program.values[number].dtype.name
            for number in operands
            if number is not None and number in self._program.values
        ]
        dtype = next((name for name in floats if name in FLOAT_FORMATS), None)
        if dtype is None:
            dtype = floats[0] if floats else "float32"
        found: list[tuple[bool, Hazard, Struck]] = []
        for hazard in hazards.for_op(self.op(event), phase):
            for region in hazard.regions(self.op(event)):
                if dtype not in hazard.dtypes:
                    continue
                mask = _mask(region, values, dtype)
                if mask is None or not mask.any() or not self._agrees(event, phase, hazard, region, mask):
                    continue
                place = region.operand
                struck = values[place]
                if struck is None:
                    continue
                inside = np.broadcast_to(mask, np.broadcast_shapes(mask.shape, struck.shape))
                index = _first(inside) if inside.shape == struck.shape else _clamped(_first(inside), struck.shape)
                found.append((region.is_certain, hazard, Struck(operands, place, index, _rows(inside))))
        found.sort(key=lambda item: not item[0])
        return (found[0][1], found[0][2]) if found else None

    def _agrees(self, event: Event, phase: Phase, hazard: Hazard, region: Region, mask: np.ndarray) -> bool:
        """Whether the op's output is non-finite where its operands were struck, and in the way that the hazard says."""
        if phase != "forward" or event.forward is not None or not event.outputs:
            return True
        output = array(self._program.values[event.outputs[0]])
        bad = np.isnan(output) if hazard.cause == "domain_error" else ~np.isfinite(output)
        if not bad.any():
            return region.is_certain and hazard.cause != "domain_error"
        try:
            return bool((mask & bad).any())
        except ValueError:  # not an elementwise op
            return True

    def _output_place(self, event: Event, operands: tuple[int | None, ...]) -> Struck | None:
        """Where the output is not finite, as the best guess of where an operand was struck."""
        if not event.outputs or not operands:
            return None
        for number in event.outputs:
            if not self._program.is_finite(number):
                bad = ~np.isfinite(array(self._program.values[number]))
                return Struck(operands, 0, None, _rows(bad))
        return None

    def _fallback(self, event: Event, phase: Phase) -> Hazard:
        candidates = [h for h in hazards.for_op(self.op(event), phase) if self.op(event) in h.ops]
        overflow = hazards.ARITHMETIC_OVERFLOW
        if phase == "forward" and overflow in candidates and self._overflows(event):
            return overflow
        patterns = [hazard for hazard in candidates if not hazard.strikes]
        if patterns:
            return patterns[-1]
        if phase == "backward":
            if candidates:
                return candidates[0]
            forward = self._fallback_forward(event)
            return forward if forward is not None else hazards.GRADIENT_OVERFLOW
        return candidates[0] if candidates else hazards.ARITHMETIC_OVERFLOW

    def _overflows(self, event: Event) -> bool:
        """Whether an op makes an infinity of finite numbers."""
        outputs = (array(self._program.values[number]) for number in event.outputs)
        is_infinite = any(output.dtype.kind == "f" and bool(np.isinf(output).any()) for output in outputs)
        return is_infinite and all(map(self._program.is_finite, event.inputs))

    def _fallback_forward(self, event: Event) -> Hazard | None:
        struck = self._strike(event, "forward", self.operands(event))
        return struck[0] if struck is not None else None

    # -- what no region can say

    def _pattern(self, birth: Birth, hazard: Hazard | None, struck: Struck | None) -> Hazard | None:
        event = birth.event
        assert event is not None
        op = self.op(event)
        if (
            self._is_half(event)
            and not self._writes_infinity(event)
            and self._program.is_finite_with(self._targets, is_widened=True)
        ):
            absorbed = hazards.EPSILON_ABSORBED_BY_DTYPE
            is_absorbed = op in absorbed.ops and (
                hazard is None or hazard.cause in ("log_of_zero", "div_by_zero", "softmax_then_log")
            )
            # A slope that is infinite at 0 or 1 alone: what kept the operand away from there was rounded off.
            is_absorbed |= hazard in (hazards.POW_GRADIENT_AT_ZERO, hazards.INVERSE_TRIG_GRADIENT_AT_END)
            return absorbed if is_absorbed else hazards.FLOAT16_RANGE
        if op in ("Log", "Log1p", "Xlogy") and hazard is not hazards.LOG_OF_NEGATIVE:
            operand = (self.operands(event) or (None,))[-1]
            if operand is not None and self._dependence.comes_from_probability(operand):
                return hazards.LOG_OF_SATURATED_PROBABILITY
        if birth.phase == "forward":
            if op in _SOFTMAXES and self._has_masked_row(event):
                return hazards.ALL_MASKED_SOFTMAX
            if op in ("RealDiv", "DivNoNan") and len(event.inputs) > 1 and self._dependence.is_count(event.inputs[1]):
                return hazards.EMPTY_REDUCTION
            return None
        forward = self.forward_event(event)
        if forward is not None and self._is_where_trap(event, forward, struck):
            return hazards.WHERE_GRADIENT_TRAP
        if op in hazards.GRADIENT_PENALTY_NORM_AT_ZERO.ops and forward is not None and self._is_of_gradient(forward):
            return hazards.GRADIENT_PENALTY_NORM_AT_ZERO
        return None

    def _is_half(self, event: Event) -> bool:
        half = (tf.float16, tf.bfloat16)
        return any(
            self._program.values[number].dtype in half
            for number in (*event.inputs, *event.outputs)
            if number in self._program.values
        )

    def _writes_infinity(self, event: Event) -> bool:
        """Whether the user's line names an infinity itself; else one in half precision is a number out of its range."""
        where = origin.where(origin.of_event(event).line)
        return where is not None and "inf" in where.code.split("#")[0]

    def _has_masked_row(self, event: Event) -> bool:
        logits = array(self._program.values[event.inputs[0]])
        return bool(logits.size and (np.isneginf(logits).all(axis=-1)).any())

    def _is_where_trap(self, event: Event, forward: Event, struck: Struck | None) -> bool:
        """Whether the forward value at the struck place is thrown away by `tf.where`, and its gradient is not."""
        if not self._dependence.feeds(forward.outputs, SELECTS):
            return False
        incoming = [
            array(self._program.values[number])
            for number in event.inputs
            if number in self._program.values and (maker := self._program.maker(number)) is not None
            and maker.forward is not None
        ]  # fmt: skip
        outputs = [number for number in event.outputs if not self._program.is_finite(number)]
        if any(not self._program.is_finite(number) for number in forward.outputs):
            return True
        if not outputs:
            return False
        bad = ~np.isfinite(array(self._program.values[outputs[0]]))
        same = [values for values in incoming if values.shape == bad.shape]
        if any((values[bad] == 0).all() for values in same):
            return True
        # The slope itself is infinite; what it is multiplied with afterwards is 0.
        return any(
            values.shape == bad.shape and (values[bad] == 0).all()
            for consumer in self._dependence.consumers(outputs[0])
            for number in consumer.inputs
            if number != outputs[0] and number in self._program.values
            for values in (array(self._program.values[number]),)
        )

    def _is_of_gradient(self, forward: Event) -> bool:
        waiting, seen = list(forward.inputs), set()
        for _ in range(400):
            if not waiting:
                return False
            number = waiting.pop()
            if number in seen:
                continue
            seen.add(number)
            maker = self._program.maker(number)
            if maker is not None:
                if maker.forward is not None:
                    return True
                waiting += maker.inputs
        return False

    def _sources(self, event: Event) -> list[int]:
        """The leaves of the batch that an event's value was made of."""
        found, waiting, seen = [], list(event.inputs), set()
        while waiting:
            number = waiting.pop()
            if number in seen:
                continue
            seen.add(number)
            maker = self._program.maker(number)
            if maker is None:
                if number in self._dependence.on_batch:
                    found.append(number)
            else:
                waiting += maker.inputs
        return found


def _mask(region: Any, values: Sequence[np.ndarray | None], dtype: str) -> np.ndarray | None:
    mask: np.ndarray | None = None
    for part in region.parts:
        if part.operand >= len(values):
            return None
        value = values[part.operand]
        if value is None or value.dtype.kind not in "fiu":
            return None
        inside = _inside(value, part.interval(dtype))
        try:
            mask = inside if mask is None else mask & inside
        except ValueError:  # not an elementwise op: the parts are struck somewhere
            mask = np.array(bool(mask.any() and inside.any())) if mask is not None else inside
    return mask


def _inside(value: np.ndarray, interval: Interval) -> np.ndarray:
    low = value > interval.low if interval.low_open else value >= interval.low
    high = value < interval.high if interval.high_open else value <= interval.high
    inside: np.ndarray = low & high
    return inside | np.isnan(value) if interval.nan and value.dtype.kind == "f" else inside


def _first(mask: np.ndarray) -> tuple[int, ...] | None:
    if not mask.any():
        return None
    return tuple(int(place) for place in np.unravel_index(int(np.argmax(mask)), mask.shape))


def _clamped(index: tuple[int, ...] | None, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if index is None:
        return None
    index = index[len(index) - len(shape) :]
    return tuple(min(place, size - 1) for place, size in zip(index, shape, strict=True))


def _rows(mask: np.ndarray) -> tuple[int, ...]:
    if mask.ndim == 0:
        return ()
    rows = mask.reshape(mask.shape[0], -1).any(axis=1)
    return tuple(int(row) for row in np.flatnonzero(rows)[:4096])
