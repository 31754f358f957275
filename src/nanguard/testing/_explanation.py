"""Why a call is not finite: the line, the hazard and the cure, by the watch and the replay that trainings have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tensorflow as tf

from nanguard import replay
from nanguard.backend import execution
from nanguard.capture import Capture, Targets, TracedStep
from nanguard.errors import NanguardError
from nanguard.findings import Incident
from nanguard.guard import Watch
from nanguard.guard import variables as script_variables
from nanguard.testing import _lines
from nanguard.testing._search import Found
from nanguard.testing._subject import Subject

_MOST_CALLS = 3  # where random numbers are drawn in the call, not every call goes wrong


class _Stop(BaseException):
    """Ends the call that is being explained."""


def explain(found: Found) -> Incident | None:
    """Gives what the replay makes of a counterexample; None where it makes nothing of it.

    It is run eagerly under the watch. What is finite there, raises, or stays unexplained is interpreted from its graph.
    What no op of TensorFlow has made is looked for in the lines of the function.
    """
    subject, runner = found.runner.subject, found.runner
    tensors = subject.tensors(found.point, runner.dtype)
    incident = None
    for _ in range(_MOST_CALLS if runner.mode == "eager" else 1):
        incident = _explain_eagerly(subject, tensors)
        runner.restore()
        if incident is not None:
            break
    if incident is not None and incident.hazard is not None:
        return incident
    traced = _explain_graph(subject, tensors)
    incident = traced if incident is None or (traced is not None and traced.hazard is not None) else incident
    if (incident is None or incident.hazard is None) and runner.mode == "eager" and found.part == "value":
        outside = _lines.explain(lambda: subject.call(tensors))
        runner.restore()
        return outside if outside is not None else incident
    return incident


def _explain_eagerly(subject: Subject, tensors: list[Any]) -> Incident | None:
    """Explains the call from a recording of its ops; a training inside of the function that fails is told instead."""
    captures: list[Capture] = []
    is_judged = False

    def stop(capture: Capture) -> bool:
        if is_judged:
            numbers = [execution.identity_of(tensor) for tensor in tensors]
            capture = replace(capture, operands=list(zip(subject.names, numbers, strict=True)))
        captures.append(capture)
        raise _Stop

    watch = Watch(stop)
    watch.arm()
    try:
        asked = [tensors[place] for place in subject.sources]
        weights = [getattr(each, "value", each) for each in subject.weights]
        # The watch judges what a tape is asked for, if a variable is among it, as in any training.
        trained = tf.Variable(0.0)
        with tf.GradientTape() as tape:
            tape.watch(asked)
            outputs = subject.floats(tensors)
        is_judged = True
        tape.gradient(outputs, [*asked, *weights, trained])
    except _Stop:
        pass
    except Exception:  # whatever a user's function may raise
        return None
    finally:
        watch.disarm()
    return _explain_capture(captures[0]) if captures else None


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
    operands = list(zip(subject.names, graph.inputs, strict=False))
    return _explain_capture(Capture(0, None, ("loss",), targets, body, operands=operands))


def _explain_capture(capture: Capture) -> Incident | None:
    try:
        return replay.explain(capture)
    except NanguardError as error:
        return replay.outline(capture, str(error))
    except (tf.errors.OpError, ValueError, TypeError, LookupError, AttributeError) as error:
        # A defect of the explanation must not hide the counterexample.
        return replay.outline(capture, f"{type(error).__name__}: {error}")
