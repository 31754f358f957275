"""The watch over eager steps: tests loss and gradients as they are taken, and weights as they are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nanguard.backend import execution
from nanguard.backend.values import is_finite
from nanguard.capture import Capture, Named, Targets
from nanguard.guard import variables as script_variables
from nanguard.guard.captures import Captures
from nanguard.guard.eager import Recorder
from nanguard.guard.thread import Thread


class EagerWatch:
    """Tests eager steps.

    Args:
        thread: What the threads are doing.
        captures: Makes the captures.
        unscaled: Gives a loss as it was before a dynamic loss scale was applied to it.
        report: Takes the capture of a step that is not finite.
    """

    def __init__(
        self,
        thread: Thread,
        captures: Captures,
        unscaled: Callable[[Any], Any],
        report: Callable[[Capture], None],
    ) -> None:
        self._thread = thread
        self._captures = captures
        self._unscaled = unscaled
        self._report = report

    def check_gradients(self, recorder: Recorder, target: Any, variables: list[Any], grads: list[Any]) -> None:
        """Tests the loss, the gradients and the layer state of a step, right after its gradients were taken."""
        recorder.has_gradients = True
        pairs = [(v, g) for v, g in zip(variables, grads, strict=False) if g is not None]
        with self._thread.ours():
            losses = [t for t in tf.nest.flatten(target) if isinstance(t, execution.EagerTensor)]
            unscaled = [self._unscaled(t) for t in losses]
            is_scaled = any(a is not b for a, b in zip(losses, unscaled, strict=True))
            values = [(v, g.values if isinstance(g, tf.IndexedSlices) else g) for v, g in pairs]
            loss = sum(_total(t) for t in unscaled)
            half_squares = [half_square(g) for _, g in values]
            others = sum(half_square(value) for _, value in recorder.assigned)
        if math.isfinite(loss + sum(half_squares) + others):
            recorder.add_history(loss, [v for v, _ in values], half_squares)
            return
        with self._thread.ours():
            bad_loss = any(not is_finite(t) for t in unscaled)
            names = script_variables.named()
            gradients = [v for v, g in values if not is_finite(g)]
            state = [
                entry
                for entry in recorder.assigned
                if not is_finite(entry[1]) and _kind(names, entry[0]) in ("state", "weight")
            ]
        if not (bad_loss or gradients or state):
            return
        seen = (["loss"] if bad_loss else []) + (["gradients"] if gradients else []) + (["state"] if state else [])
        targets = Targets(
            [execution.identity_of(t) for t in unscaled],
            [(v, execution.identity_of(g)) for v, g in values],
            [],
            [(names[number].variable, execution.identity_of(value)) for number, value in state],
        )
        is_only_scale = is_scaled and seen == ["gradients"]
        capture = self._captures.recorded(recorder, seen, targets, variables, names, is_only_scale)
        if is_only_scale and capture.scale is None:
            capture.scale_number = _scale_number(recorder, losses, unscaled)
        self._report(capture)

    def check_update(self, recorder: Recorder, optimizer: Any, variables: list[Any]) -> None:
        """Tests what an optimizer has just written."""
        recorder.is_counted = True
        with self._thread.ours():
            written = [script_variables.raw(v).read_value() for v in variables]
            if not script_variables.is_trusted(optimizer, variables):
                written += [value for _, value in recorder.assigned]
            if math.isfinite(sum(map(half_square, written))) or all(map(is_finite, written)):
                recorder.is_recording = bool(self._thread.tapes)
                return
            names = script_variables.named()
        kinds = ("weight", "slot")
        wrong = [(n, v) for n, v in recorder.assigned if _kind(names, n) in kinds and not is_finite(v)]
        if not wrong:
            return
        targets = Targets(
            [], [], [(names[number].variable, execution.identity_of(value)) for number, value in wrong], []
        )
        self._report(self._captures.recorded(recorder, ["weights"], targets, variables, names, False, before=1))


def _kind(names: dict[int, Named], number: int) -> str:
    return names[number].kind if number in names else "other"


def _scale_number(recorder: Recorder, losses: list[Any], unscaled: list[Any]) -> int | None:
    """Number of what the loss was multiplied by; an optimizer in its first step has no variable for it."""
    scaled = {execution.identity_of(loss) for loss in losses}
    before = {execution.identity_of(loss) for loss in unscaled}
    for event in recorder.events:
        if scaled & set(event.outputs):
            return next((number for number in event.inputs if number not in before), None)
    return None


def _total(tensor: Any) -> float:
    numbers_of = tensor.numpy()
    return float(numbers_of if numbers_of.ndim == 0 else numbers_of.sum())


def half_square(tensor: Any) -> float:
    """Half the sum of squares; NaN or Inf if a number is, or if a square overflows."""
    if tensor.dtype in (tf.float32, tf.float64):
        return float(execution.half_square(tf.convert_to_tensor(tensor)))
    if not (tensor.dtype.is_floating or tensor.dtype.is_complex):
        return 0.0
    return 0.0 if is_finite(tensor) else math.nan
