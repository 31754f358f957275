"""Why a call is not finite: the line, the hazard and the cure, by the watch and the replay that trainings have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tensorflow as tf

from nanguard import hazards, replay
from nanguard.backend import execution
from nanguard.capture import Capture, Event, Targets, TracedStep
from nanguard.errors import NanguardError
from nanguard.findings import Cure, Incident
from nanguard.guard import Watch
from nanguard.guard import variables as script_variables
from nanguard.replay import operands, origin, program
from nanguard.testing._search import Found
from nanguard.testing._subject import Subject

_OF_TRAINING = {
    hazard.code
    for hazard in (
        hazards.DIVERGING_LEARNING_RATE,
        hazards.OUTLIER_ROWS,
        hazards.UNSCALED_INPUTS,
    )
}


class _Stop(BaseException):
    """Ends the call that is being explained."""


def explain(found: Found) -> Incident | None:
    """Gives what the replay makes of a counterexample; None where it makes nothing of it.

    It is run eagerly under the watch. What is finite there, raises, or stays unexplained is interpreted from its graph.
    """
    subject, runner = found.runner.subject, found.runner
    tensors = subject.tensors(found.point, runner.dtype)
    incident = explain_call(lambda: _differentiate(subject, tensors))
    runner.restore()
    if incident is not None and incident.hazard is not None:
        return incident
    traced = _explain_graph(subject, tensors)
    is_better = incident is None or (traced is not None and traced.hazard is not None)
    return traced if is_better else incident


def explain_call(call: Callable[[], Any]) -> Incident | None:
    """Explains the first non-finite loss or gradient of what `call` differentiates eagerly; None if all is finite.

    Args:
        call: Takes a gradient by a `tf.GradientTape`. An error that it raises is nothing to explain.
    """
    captures: list[Capture] = []

    def stop(capture: Capture) -> bool:
        captures.append(capture)
        raise _Stop

    watch = Watch(stop)
    watch.arm()
    try:
        call()
    except _Stop:
        pass
    except Exception:  # whatever a user's function may raise
        return None
    finally:
        watch.disarm()
    return _explain_capture(captures[0]) if captures else None


def _differentiate(subject: Subject, tensors: list[Any]) -> None:
    asked = [tensors[place] for place in subject.sources]
    weights = [getattr(each, "value", each) for each in subject.weights]
    # The watch judges what a tape is asked for, if a variable is among it, as in any training.
    trained = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        tape.watch(asked)
        outputs = subject.floats(tensors)
    tape.gradient(outputs, [*asked, *weights, trained])


def _explain_graph(subject: Subject, tensors: list[Any]) -> Incident | None:
    """What the ops of the graph give when they run one by one; an op that raises then is told as well."""
    num_losses = 0

    def run(*operands: Any) -> list[Any]:
        nonlocal num_losses
        losses = subject.floats(operands)
        num_losses = len(losses)
        asked = [operands[place] for place in subject.sources]
        # Not a tape: this marks each op with the forward op whose gradient it is.
        found = tf.gradients(losses, asked) if losses and asked else []
        return [*losses, *(tf.convert_to_tensor(each) for each in found if each is not None)]

    try:
        graph = tf.function(run, autograph=False).get_concrete_function(*tensors).graph
    except Exception:  # whatever a user's function may raise
        return None
    values = {id(inside): value for inside, value in zip(graph.inputs, tensors, strict=False)}
    handles, before = {}, {}
    for outside, _ in graph.captures:
        dtype = script_variables.dtype_of(outside) if outside.dtype == tf.resource else None
        if dtype is not None:
            handles[execution.identity_of(outside)] = outside
            before[execution.identity_of(outside)] = execution.read_variable(outside, dtype)
    body = TracedStep(graph, values, before, handles)
    losses, gradients = graph.outputs[:num_losses], graph.outputs[num_losses:]
    targets = Targets(losses=list(losses), gradients=[(None, each) for each in gradients])
    return _explain_capture(Capture(0, None, ("loss",), targets, body))


def _explain_capture(capture: Capture) -> Incident | None:
    try:
        incident = replay.explain(capture)
        is_training = capture.optimizer is not None or capture.history
        return incident if incident is None or is_training else _of_call(capture, incident)
    except NanguardError as error:
        return replay.outline(capture, str(error))
    except (tf.errors.OpError, ValueError, TypeError, LookupError, AttributeError) as error:
        # A defect of the explanation must not hide the counterexample.
        return replay.outline(capture, f"{type(error).__name__}: {error}")


def _of_call(capture: Capture, incident: Incident) -> Incident:
    """An incident of one call, in which nothing can have diverged and no row is an outlier: the op overflowed."""
    if incident.hazard not in _OF_TRAINING or not incident.chain:
        return incident
    replayed = program.build(capture)
    event = next((each for each in replayed.events if _is_birth(replayed, each, incident.chain[0])), None)
    if event is None:
        return incident
    hazard = hazards.ARITHMETIC_OVERFLOW if event.forward is None else hazards.GRADIENT_OVERFLOW
    place = origin.of_forward(replayed, event) or origin.of_event(event)
    line = place.users_line()
    return replace(
        incident,
        born_in="forward" if event.forward is None else "backward",
        op=event.op,
        where=origin.where(line),
        operands=operands.of_op(replayed, event.op, event.inputs, None, line),
        hazard=hazard.code,
        hazard_name=hazard.name,
        cause=hazard.cause,
        cure=Cure(hazard.cure),
        needs=hazard.needs,
        summary=f"{event.op} of finite numbers is beyond the largest of its dtype",
        rows=None,
        columns=None,
    )


def _is_birth(replayed: program.Program, event: Event, op: str) -> bool:
    is_finite = replayed.is_finite
    return event.op == op and all(map(is_finite, event.inputs)) and not all(map(is_finite, event.outputs))
