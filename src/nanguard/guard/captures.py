"""From what the watch saw to a capture: the step's number, its variables by name, its history."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import tensorflow as tf

from nanguard.backend import execution, updates
from nanguard.backend.values import is_finite
from nanguard.capture import Capture, Named, RecordedStep, Targets, TracedStep
from nanguard.guard import source
from nanguard.guard import variables as script_variables
from nanguard.guard.eager import Recorder, norm
from nanguard.guard.graph import Sighting
from nanguard.guard.thread import Thread


class Captures:
    """Makes captures, with what is known of the script's optimizers.

    Args:
        thread: What the threads are doing.
    """

    def __init__(self, thread: Thread) -> None:
        self.hand_steps = 0  # eager steps whose update no Keras optimizer made
        self.epoch: int | None = None
        self.scaler: Any = None  # the optimizer that scaled a loss last
        self.fits: list[dict[str, Any]] = []  # the calls of `fit` under way: model, args, kwargs
        self._thread = thread
        self._optimizers: dict[int, tuple[Any, int]] = {}  # by id: the optimizer and its first iteration seen
        self._owner: dict[int, Any] = {}  # handle's identity -> optimizer
        self._trained: set[int] = set()
        self._bad_at_start: set[int] = set()

    def steps(self) -> int:
        """Optimizer steps made since the hooks went in."""
        made = 0
        for optimizer, first in self._optimizers.values():
            with contextlib.suppress(Exception):  # a deleted variable; the count is for the report alone
                made += max(_iterations(optimizer) - first, 0)
        return made + self.hand_steps

    def know(self, optimizer: Any, variables: list[Any]) -> None:
        """Notes which variables an optimizer trains, and how many steps it had made."""
        if id(optimizer) not in self._optimizers:
            with tf.init_scope():
                self._optimizers[id(optimizer)] = (optimizer, _iterations(optimizer))
        for variable in variables:
            for component in script_variables.components(script_variables.raw(variable)):
                self._owner[execution.identity_of(component.handle)] = optimizer

    def inspect(self, variables: list[Any]) -> None:
        """Notes which variables are not finite before they are trained for the first time."""
        with tf.init_scope(), self._thread.ours():
            for variable in variables:
                for component in script_variables.components(script_variables.raw(variable)):
                    number = execution.identity_of(component.handle)
                    if number in self._trained:
                        continue
                    self._trained.add(number)
                    if not is_finite(execution.read_variable(component.handle, component.dtype)):
                        self._bad_at_start.add(number)

    def recorded(
        self,
        recorder: Recorder,
        seen: list[Any],
        targets: Targets,
        variables: list[Any],
        names: dict[int, Named],
        is_scaled: bool,
        before: int = 0,
    ) -> Capture:
        """The capture of an eager step.

        Args:
            recorder: Its recording.
            seen: Where it is not finite.
            targets: What it is judged by.
            variables: The variables that it trains.
            names: What the script\'s variables are called.
            is_scaled: Whether only gradients of a scaled loss are not finite.
            before: How many updates of the step the optimizer has counted.
        """
        optimizer = self._optimizer_of(variables)
        body = RecordedStep(list(recorder.events), dict(recorder.tensors))
        capture = self._capture(seen, targets, body, optimizer, names)
        capture.step = max(capture.step - before, 0)
        # In its first step an optimizer has applied nothing yet, but has scaled the loss.
        scale = script_variables.dynamic_scale(optimizer if optimizer is not None else self.scaler)
        if is_scaled and scale is not None and any(scale.handle is value for value in body.tensors.values()):
            capture.scale = execution.identity_of(scale.handle)
        capture.history = recorder.history(
            lambda variable: self._label(names, variable), [v for v, _ in targets.gradients] or variables, capture.step
        )
        return capture

    def traced(self, sighting: Sighting) -> Capture:
        """The capture of a traced step, from what its check saw."""
        check = sighting.check
        with self._thread.ours():
            names = script_variables.named()
        seen: list[Any] = ["loss"] if sighting.has_bad_loss else []
        seen += ["gradients"] if sighting.bad_gradients else []
        bad_updates = [check.updates[place][0] for place in sighting.bad_updates]
        if bad_updates or sighting.has_bad_weights:
            seen.append("weights")
        seen += ["state"] if sighting.bad_state else []
        variables = [v for v, _ in check.gradients] or [v for v, _ in check.updates]
        written = {execution.identity_of(handle) for handle in check.written if hasattr(handle, "_id")}
        kept = {id(tensor): sighting.values[id(tensor)] for tensor in check.inputs if id(tensor) in sighting.values}
        if sighting.is_compiled:
            kept = sighting.values
        body = TracedStep(check.graph, kept, sighting.snapshot, sighting.handles, written)
        targets = Targets(
            list(check.losses),
            list(check.gradients),
            [check.updates[place] for place in sighting.bad_updates],
            [check.state[place] for place in sighting.bad_state],
        )
        optimizer = self._optimizer_of(variables) if variables else self._optimizer_in(sighting.snapshot)
        capture = self._capture(seen, targets, body, optimizer, names)
        if optimizer is not None:
            capture.step = _iterations_in(optimizer, sighting.snapshot, capture.step)
        else:
            capture.step = check.count()
        capture.compiled = sighting.is_compiled
        capture.batch = [
            (tensor.name.split(":")[0], sighting.values[id(tensor)])
            for tensor in check.graph.inputs
            if id(tensor) in sighting.values
        ]
        # In its first step an optimizer has applied nothing yet, but has scaled the loss.
        scale = script_variables.dynamic_scale(optimizer if optimizer is not None else self.scaler)
        if sighting.is_only_scale and scale is not None:
            capture.scale = execution.identity_of(scale.handle)
        if check.ring is not None:
            labels = [self._label(names, variable) for variable in check.ring.variables]
            rows = check.ring.read()
            first = capture.step - len(rows) + 1
            capture.history = [
                (first + place, float(row[0]), dict(zip(labels, _norms(row[1:]), strict=True)))
                for place, row in enumerate(rows)
            ]
        return capture

    def _capture(
        self, seen: list[Any], targets: Targets, body: Any, optimizer: Any, names: dict[int, Named]
    ) -> Capture:
        with self._thread.ours():
            step = _iterations(optimizer) if optimizer is not None else self.hand_steps
        values = body.variables if isinstance(body, TracedStep) else {}
        bad_before = [
            names[number].path
            for number, value in values.items()
            if number in names
            and names[number].kind in ("weight", "state")
            and not is_finite(value)
            and not names[number].path.startswith("nanguard")
        ]
        return Capture(
            step=step,
            epoch=self.epoch if self.fits else None,
            seen_in=tuple(seen),
            targets=targets,
            body=body,
            stack=source.stack(sys._getframe(1)),
            optimizer=optimizer,
            names=names,
            sources=[self.fits[-1]] if self.fits else [],
            bad_before=bad_before,
            trained=set(self._trained),
            bad_at_start=set(self._bad_at_start),
            before=self._thread.recorder.before() if self._thread.recorder is not None else None,
            first_step=self._optimizers.get(id(optimizer), (None, 0))[1],
        )

    def num_steps(self, model: Any) -> int:
        """Steps that a model's optimizer has made under the watch."""
        optimizer = getattr(model, "optimizer", None)
        known = self._optimizers.get(id(optimizer))
        return _iterations(optimizer) - known[1] if known is not None else 0

    def between_steps(self, variables: list[Any], names: dict[int, Named]) -> Capture:
        """The capture of weights that something other than a step has written."""
        capture = self._capture(["weights"], Targets(), None, self._optimizer_of(variables), names)
        capture.bad_before = [self._label(names, variable) for variable in variables]
        return capture

    def _optimizer_in(self, snapshot: dict[int, Any]) -> Any:
        """An optimizer whose counter is among the variables of a step that tells of no gradient."""
        for optimizer, _ in self._optimizers.values():
            if _iterations_in(optimizer, snapshot, -1) >= 0:
                return optimizer
        return None

    def _optimizer_of(self, variables: list[Any]) -> Any:
        for variable in variables:
            for component in script_variables.components(script_variables.raw(variable)):
                owner = self._owner.get(execution.identity_of(component.handle))
                if owner is not None:
                    return owner
        return None

    @staticmethod
    def _label(names: dict[int, Named], variable: Any) -> str:
        for component in script_variables.components(script_variables.raw(variable)):
            known = names.get(execution.identity_of(component.handle))
            if known is not None:
                return known.path
        return str(getattr(variable, "name", "variable"))


def _iterations(optimizer: Any) -> int:
    return int(tf.convert_to_tensor(updates.iterations(optimizer)).numpy())


def _iterations_in(optimizer: Any, snapshot: dict[int, Any], otherwise: int) -> int:
    """The optimizer's iterations as they were in a snapshot; what runs beside a failed step may have moved on."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    variable = script_variables.raw(getattr(inner, "_iterations", None))
    for component in script_variables.components(variable):
        value = snapshot.get(execution.identity_of(component.handle))
        if value is not None:
            return int(value) // int(getattr(inner, "gradient_accumulation_steps", None) or 1)
    return otherwise


def _norms(half_squares: Any) -> list[float]:
    return [norm(float(value)) for value in half_squares]
