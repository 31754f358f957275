"""From a capture to an incident: replay, birth, diagnosis, and how the step ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard import hazards
from nanguard.backend import execution
from nanguard.backend.values import array, holds_floats
from nanguard.capture import Capture, Event, TracedStep
from nanguard.findings import Cure, Incident, Operand, SeenIn
from nanguard.hazards import Hazard
from nanguard.replay import births, divergence, operands, origin, program, rows, schedule, story
from nanguard.replay.births import Birth, Steps
from nanguard.replay.culprits import Culprits
from nanguard.replay.dependence import Dependence
from nanguard.replay.diagnosis import Diagnosis, Doctor, Struck


def explain(capture: Capture) -> Incident | None:
    """Replays a captured step and tells what happened.

    Args:
        capture: The failed step, as the watch left it.

    Returns:
        The incident; None if there is none: the gradients overflow because of a dynamic loss scale alone, or a
        number that is no loss, gradient, weight or state was suspected.

    Raises:
        ReplayError: If the step cannot be run again.
    """
    if capture.body is None:
        return _between_steps(capture)
    return _Explanation(capture).incident()


def outline(capture: Capture, reason: str) -> Incident:
    """What the watch alone knows of a step, for when the replay fails.

    Args:
        capture: The failed step, as the watch left it.
        reason: Why there is no replay.
    """
    line = origin.innermost(capture.stack)
    return Incident(
        step=capture.step,
        epoch=capture.epoch,
        seen_in=capture.seen_in,
        born_in="forward" if "loss" in capture.seen_in else "backward" if "gradients" in capture.seen_in else "update",
        where=origin.where(line),
        batch_size=int(capture.batch[0][1].shape[0]) if capture.batch and capture.batch[0][1].shape.rank else None,
        reproduced=False,
        summary=f"{story.listed(capture.seen_in)} stopped being finite; where it was born is not known.",
        notes=(f"The replay failed: {reason}", *capture.notes),
        history=story.history(capture),
    )


def _between_steps(capture: Capture) -> Incident:
    """Weights that no step has spoilt: a callback, or other code of the user's, has written them."""
    hazard = hazards.WEIGHTS_NONFINITE_BEFORE_TRAINING
    return Incident(
        step=capture.step,
        epoch=capture.epoch,
        seen_in=capture.seen_in,
        born_in="update",
        where=origin.where(origin.innermost(capture.stack)),
        layer=capture.bad_before[0].rpartition("/")[0] or None,
        hazard=hazard.code,
        hazard_name=hazard.name,
        cause=hazard.cause,
        cure=Cure(hazard.cure),
        summary=f"Code between two steps, such as a callback, made {', '.join(capture.bad_before[:3])} not finite",
        needs=hazard.needs,
    )


class _Explanation:
    def __init__(self, capture: Capture) -> None:
        self.capture = replace(capture)  # its step may be set right, but not for who explains it again
        self.program = program.build(capture)
        self.losses = self._numbers(capture.targets.losses)
        self.gradients = self._numbers([reference for _, reference in capture.targets.gradients])
        self.state = self._numbers([reference for _, reference in capture.targets.state])
        self.operands = {
            number: name for name, reference in capture.operands or () for number in self._numbers([reference])
        }
        self.batch = rows.of_capture(capture, self.program) if capture.operands is None else None
        weights = {
            number
            for number, named in capture.names.items()
            if named.kind in ("weight", "state") or (named.kind == "slot" and named.variable.shape.rank)
        }
        numbers = self.batch.numbers if self.batch is not None else ()
        self.dependence = Dependence(self.program, numbers, weights or None, self.losses)
        self.culprits = Culprits(self.capture, self.program, self.batch, self.dependence)

    def _numbers(self, references: list[Any]) -> list[int]:
        if isinstance(self.capture.body, TracedStep):
            found = (self.program.numbers.get(id(tensor)) for tensor in references)
            return [number for number in found if number is not None]
        return [number for number in references if number in self.program.values]

    # -- the way of the data

    def incident(self) -> Incident | None:
        capture = self.capture
        targets = [*self.losses, *self.gradients]
        if capture.scale is not None or capture.scale_number is not None:
            one = tf.constant(1.0)
            variables = {capture.scale: one} if capture.scale is not None else {}
            number = capture.scale_number
            leaves = {number: tf.ones_like(self.program.values[number])} if number in self.program.leaves else {}
            if self.program.is_finite_with(targets, variables=variables, leaves=leaves):
                return None
            self.program.variables.update(variables)
        seen, numbers, updates = self._seen()
        if not seen and self.program.failure is not None:
            return self._of_failure()
        if not seen and capture.operands is not None:
            # Given back by NumPy or plain Python: what is left are the numbers that no op has taken.
            seen, numbers = ("loss",), self._last_numbers()
            self.losses = numbers
        if not numbers:
            return self._not_reproduced()
        steps = Steps(self.program, self.losses, self.gradients)
        is_loss_finite = all(map(self.program.is_finite, self.losses))
        found = births.find(self.program, numbers, steps, self._constants(), is_loss_finite=is_loss_finite)
        if not found and updates:
            # A write that overflows although what it writes is finite.
            found = [Birth(updates[0][1], None, "update", (updates[0][1],))]
        if not found and capture.operands is not None:
            # Infinities that a function is given are no fault as long as it knows what to do with them.
            found = births.find(self.program, numbers, steps, set(), is_loss_finite=is_loss_finite)
        if not found:
            return outline(capture, "the non-finite numbers of the replay lead nowhere.")
        birth = found[0]
        if self._is_of_last_update(birth):
            return self._of_last_update(seen)
        doctor = Doctor(capture, self.program, self.dependence, [*targets, *numbers])
        written = self._written_in_call(birth)
        if written is not None:
            diagnosis = Diagnosis("forward", hazards.BATCHNORM_POISONED, written, None)
            return self._told(seen, birth, diagnosis, doctor, [*targets, *numbers])
        diagnosis = doctor.diagnose(birth)
        if diagnosis.born_in == "divergence" and not divergence.has_grown(capture):
            birth, diagnosis = self._exponential(found, doctor) or (birth, diagnosis)
        if seen == ("state",) and capture.seen_in == ("state",) and diagnosis.born_in != "update":
            diagnosis = replace(diagnosis, hazard=hazards.BATCHNORM_POISONED)
        return self._told(seen, birth, diagnosis, doctor, [*targets, *numbers])

    @staticmethod
    def _exponential(found: list[Birth], doctor: Doctor) -> tuple[Birth, Diagnosis] | None:
        """An exponential that overflows in the same step: numbers too large to square come from it, not from growth."""
        for birth in found:
            if birth.event is not None and birth.phase == "forward" and birth.event.op in hazards.EXP_OVERFLOW.ops:
                diagnosis = doctor.diagnose(birth)
                if diagnosis.hazard is hazards.EXP_OVERFLOW:
                    return birth, diagnosis
        return None

    def _seen(self) -> tuple[tuple[SeenIn, ...], list[int], list[tuple[int, Event]]]:
        bad_losses = [number for number in self.losses if not self.program.is_finite(number)]
        bad_gradients = [number for number in self.gradients if not self.program.is_finite(number)]
        bad_state = [number for number in self.state if not self.program.is_finite(number)]
        updates = self._bad_updates()
        seen: list[SeenIn] = []
        if bad_losses:
            seen.append("loss")
        if bad_gradients:
            seen.append("gradients")
        if "weights" in self.capture.seen_in or (updates and not seen):
            seen.append("weights")
        if bad_state or "state" in self.capture.seen_in:
            seen.append("state")
        first = bad_losses or bad_gradients or [number for number, _ in updates] or bad_state
        if not (bad_losses or bad_gradients or updates or bad_state):
            return (), [], []
        return tuple(seen), first, updates

    def _last_numbers(self) -> list[int]:
        """The numbers that no op has taken and that are not finite."""
        taken = {number for event in self.program.events for number in event.inputs}
        made = (number for event in self.program.events for number in event.outputs)
        return [number for number in made if number not in taken and not self.program.is_finite(number)]

    def _written_in_call(self, birth: Birth) -> Event | None:
        """The first write in a call that made the state of a layer not finite, for a birth that reads it."""
        if self.capture.operands is None or birth.event is None or birth.event.op != "ReadVariableOp":
            return None
        key = execution.identity_of(self.program.values[birth.event.inputs[0]])
        named = self.capture.names.get(key)
        if named is None or named.kind != "state":
            return None
        writes = (event for handle, value, event in self.program.written
                  if handle == key and not self.program.is_finite(value))  # fmt: skip
        return next(writes, None)

    def _bad_updates(self) -> list[tuple[int, Event]]:
        """Writes that made a weight or slot non-finite: number of the value, and the write."""
        found = []
        for key, value, event in self.program.written:
            named = self.capture.names.get(key)
            before, after = self.program.variables.get(key), self.program.after.get(key)
            if named is None or named.kind not in ("weight", "slot") or named.path.startswith("nanguard"):
                continue
            if (
                after is None
                or not (after.dtype.is_floating)
                or not _is_bad(after)
                or (before is not None and _is_bad(before))
            ):
                continue
            found.append((value, event))
        return found

    def _constants(self) -> set[int]:
        inside = self.batch.numbers if self.batch is not None else set()
        return {number for number in self.program.leaves if number not in inside}

    def _is_of_last_update(self, birth: Birth) -> bool:
        """Whether a variable was non-finite before the step, and was not so before training."""
        if birth.event is None or birth.event.op not in ("ReadVariableOp", "ResourceGather"):
            return False
        key = execution.identity_of(self.program.values[birth.event.inputs[0]])
        has_trained = self.capture.step > self.capture.first_step
        return has_trained and key in self.capture.trained and key not in self.capture.bad_at_start

    # -- kinds of endings

    def _of_failure(self) -> Incident:
        failure = self.program.failure
        assert failure is not None
        candidates = [h for h in hazards.for_op(failure.event.op, "forward") if failure.event.op in h.ops]
        labels = hazards.LABEL_OUT_OF_RANGE
        takes_labels = failure.event.op in labels.ops and (
            self.capture.operands is not None
            or any(number in self.dependence.on_batch for number in failure.event.inputs[1:2])
        )
        hazard: Hazard | None = labels if takes_labels else (candidates[0] if candidates else None)
        bad_rows = self.culprits.bad_labels(failure.event) if hazard is labels else ()
        is_call = self.capture.operands is not None
        line = None if hazard is labels and not is_call else origin.of_event(failure.event).line
        struck = self._struck_label(failure.event) if hazard is labels and is_call else None
        received = operands.of_op(
            self.program, failure.event.op, failure.event.inputs, struck, line if is_call else None
        )
        received = self._with_names(received, failure.event.inputs)
        line = line or origin.innermost(self.capture.stack)
        diagnosis = Diagnosis("data" if hazard is labels else "forward", hazard, failure.event, None)
        note = f"The graph ran {failure.event.op} without an error; op by op it fails: {failure.message[:160]}"
        incident = self._filled(
            self.capture.seen_in, diagnosis, line, origin.of_event(failure.event), None, received, (failure.event.op,)
        )
        incident.notes = (note, *incident.notes)
        if bad_rows:
            incident.rows = bad_rows
            incident.dataset_rows = self.culprits.dataset_rows(list(bad_rows))
        return incident

    def _struck_label(self, event: Event) -> Struck | None:
        """The first label outside of the classes, for an op that takes logits and labels."""
        logits, labels = (self.program.values[number] for number in event.inputs[:2])
        if not event.op.startswith("Sparse"):
            return None
        values = array(labels)
        bad = (values < 0) | (values >= int(logits.shape[-1]))
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
        return Struck(event.inputs, 1, index)

    def _not_reproduced(self) -> Incident | None:
        if self.capture.compiled and "weights" not in self.capture.seen_in:
            return None  # an output that is no loss, such as a metric
        incident = outline(self.capture, "")
        incident.notes = (
            "The same step is finite when it is run again op by op: a transient fault, a race, or random numbers that "
            "TensorFlow draws anew.",
            *self.capture.notes,
        )
        return incident

    def _of_last_update(self, seen: tuple[SeenIn, ...]) -> Incident:
        """Weights that the update before this step made non-finite, from gradients that were finite."""
        capture = self.capture
        capture.step -= 1
        found = schedule.birth(capture, capture.step)
        hazard = hazards.OPTIMIZER_UPDATE_NONFINITE
        rate = schedule.rate(capture)
        if found is not None or (rate is not None and not np.isfinite(rate)):
            hazard = hazards.LEARNING_RATE_SCHEDULE_NONFINITE
        event = found[1].event if found is not None else None
        place = origin.of_event(event) if event is not None else None
        line = (place.users_line() if place is not None else None) or origin.innermost(capture.stack)
        received: tuple[Operand, ...] = ()
        if found is not None and event is not None:
            doctor = Doctor(capture, found[0], Dependence(found[0], ()), [])
            struck = doctor.diagnose(found[1]).struck
            received = operands.of_op(found[0], event.op, event.inputs, struck, line)
        diagnosis = Diagnosis("update", hazard, event, None)
        chain = tuple(each.op for each in found[1].chain) if found is not None else ()
        return self._filled(("weights",), diagnosis, line, place, None, received, chain)

    def _told(
        self, seen: tuple[SeenIn, ...], birth: Birth, diagnosis: Diagnosis, doctor: Doctor, targets: list[int]
    ) -> Incident:
        event = diagnosis.event
        place = origin.of_event(event) if event is not None else None
        forward = origin.of_forward(self.program, event) if event is not None else None
        if forward is not None and event is not None and birth.phase == "forward":
            forward = None if event.forward is None else forward
        blamed = forward if forward is not None else place
        line = blamed.users_line() if blamed is not None else None
        if diagnosis.hazard is hazards.LABEL_OUT_OF_RANGE:
            line = None  # the labels are to blame, not the op that takes them
        if line is None and event is None and birth.leaf is not None:
            line = self._line_of_entry(birth.leaf)
        if line is None and diagnosis.born_in != "divergence":
            line = place.users_line() if place is not None else None
            if line is None and self.capture.operands is None:
                line = origin.innermost(self.capture.stack)
        received: tuple[Operand, ...] = ()
        if diagnosis.struck is not None:
            op = doctor.op(event) if event is not None else ""
            received = operands.of_op(self.program, op, diagnosis.struck.numbers, diagnosis.struck, line)
            if event is None:
                received = self.culprits.named(received, birth)
            received = self._with_names(received, diagnosis.struck.numbers)
        layer = next((each.layer for each in (forward, place) if each is not None and each.layer), None)
        incident = self._filled(
            seen,
            diagnosis,
            line if diagnosis.born_in != "divergence" or self.capture.operands is not None else None,
            place,
            forward,
            received,
            tuple(each.op for each in birth.chain),
            layer,
        )
        self.culprits.add_to(incident, birth, diagnosis, targets)
        if birth.leaf is not None and diagnosis.born_in == "data":
            self.culprits.trace_preprocessing(incident)
        if diagnosis.hazard is hazards.OUTLIER_ROWS and incident.rows is None:
            return self._told(seen, birth, doctor.without_outliers(birth), doctor, targets)
        return incident

    def _line_of_entry(self, leaf: int) -> origin.Line | None:
        """In an eager loop, the line in which the step first takes the data."""
        if isinstance(self.capture.body, TracedStep):
            return None
        lines = (origin.of_event(event).line for event in self.program.events if leaf in event.inputs)
        return next((line for line in lines if line is not None), None)

    def _filled(
        self,
        seen: tuple[SeenIn, ...],
        diagnosis: Diagnosis,
        line: origin.Line | None,
        place: origin.Origin | None,
        forward: origin.Origin | None,
        received: tuple[Operand, ...],
        chain: tuple[str, ...],
        layer: str | None = None,
    ) -> Incident:
        hazard = diagnosis.hazard
        capture = self.capture
        grew = story.first_to_grow(capture) if diagnosis.born_in == "divergence" else None
        op = place.op if place is not None else None
        dtype = received[0].dtype if received else "float32"
        blamed_op = forward.op if forward is not None else op
        replacement = (
            hazard.rewrite(blamed_op, [operand.name for operand in received], dtype)
            if hazard is not None and blamed_op is not None and line is not None and operands.are_spelled(received)
            else None
        )
        return Incident(
            step=capture.step,
            epoch=capture.epoch,
            seen_in=seen,
            born_in=diagnosis.born_in,
            op=op,
            forward_op=forward.op if forward is not None else None,
            where=origin.where(line),
            layer=layer if layer is not None else (place.layer if place is not None else None),
            operands=received,
            hazard=hazard.code if hazard is not None else None,
            hazard_name=hazard.name if hazard is not None else None,
            cause=hazard.cause if hazard is not None else None,
            chain=story.shortened(chain),
            batch_size=self.batch.size if self.batch is not None else None,
            cure=Cure(hazard.cure, replacement) if hazard is not None else None,
            summary=story.summary(diagnosis, op, forward, self._made(diagnosis.event), capture),
            needs=hazard.needs if hazard is not None else "",
            notes=(*diagnosis.notes, *capture.notes),
            history=story.history(capture),
            first_to_grow=grew,
        )

    def _made(self, event: Event | None) -> str:
        """How many numbers of an op's output are not finite, in words."""
        for number in event.outputs if event is not None else ():
            if not self.program.is_finite(number) and holds_floats(self.program.values[number]):
                values = array(self.program.values[number])
                bad = values[~np.isfinite(values)]
                kind = "NaN" if np.isnan(bad).any() else "inf" if (bad > 0).any() else "-inf"
                return f"{kind} in {bad.size} of {values.size} value{'s' if values.size > 1 else ''}"
        return "a number that is not finite"

    def _with_names(self, received: tuple[Operand, ...], numbers: Sequence[int | None]) -> tuple[Operand, ...]:
        """Operands of a call by the names that its function has for them, where the line does not spell them."""
        known = [self.operands[number] for number in numbers if number in self.operands]
        if len(received) != len(numbers) or len(known) != len(numbers) or operands.are_spelled(received):
            return received
        return tuple(replace(operand, name=name) for operand, name in zip(received, known, strict=True))


def _is_bad(value: Any) -> bool:
    return not np.isfinite(array(value)).all()
