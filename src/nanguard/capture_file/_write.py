"""A capture as JSON: every tensor, variable, graph and frame by its number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nanguard.backend import execution, graphs
from nanguard.capture import Answers, Capture, Event, Forward, RecordedStep, TracedStep
from nanguard.capture_file import _ops
from nanguard.capture_file._frames import FrameWriter
from nanguard.capture_file._graphs import GraphWriter, Handles
from nanguard.capture_file._tensors import TensorWriter, attribute


class StepWriter:
    """Makes the JSON of a capture.

    Args:
        frames: Where frames go.
        tensors: Where tensors go.
        handles: Where variables go.
        graphs: Where graphs go.
    """

    def __init__(self, frames: FrameWriter, tensors: TensorWriter, handles: Handles, graphs: GraphWriter) -> None:
        self._frames = frames
        self._tensors = tensors
        self._handles = handles
        self._graphs = graphs

    def capture(self, capture: Capture) -> dict[str, Any]:
        """The whole capture."""
        body = self._body(capture.body)
        targets = capture.targets
        return {
            "step": capture.step,
            "epoch": capture.epoch,
            "seen_in": list(capture.seen_in),
            "body": body,
            "losses": self._references(targets.losses),
            "gradients": self._pairs(targets.gradients),
            "updates": self._pairs(targets.updates),
            "state": self._pairs(targets.state),
            "operands": None if capture.operands is None else self._operands(capture.operands),
            "batch": [[name, self._tensors.add(value)] for name, value in capture.batch],
            "stack": [self._frames.line(line) for line in capture.stack],
            "history": [[step, loss, norms] for step, loss, norms in capture.history],
            "optimizer": _optimizer(capture.optimizer),
            "scale": self._handles.add(capture.scale) if capture.scale is not None else None,
            "scale_number": capture.scale_number,
            "names": [
                [self._handles.add(key), named.path, named.kind, _shape(named.variable)]
                for key, named in capture.names.items()
            ],
            "bad_before": list(capture.bad_before),
            "first_step": capture.first_step,
            "trained": [self._handles.add(key) for key in sorted(capture.trained)],
            "bad_at_start": [self._handles.add(key) for key in sorted(capture.bad_at_start)],
            "compiled": capture.compiled,
            "before": None if capture.before is None else self._recorded(capture.before, is_needed=False),
            "notes": list(capture.notes),
            "answers": self._answers(capture.answers),
        }

    def _body(self, body: TracedStep | RecordedStep | None) -> dict[str, Any] | None:
        if body is None:
            return None
        return self._traced(body) if isinstance(body, TracedStep) else self._recorded(body)

    def _traced(self, body: TracedStep) -> dict[str, Any]:
        graph = self._graphs.add(body.graph)
        places = self._graphs.tensors_by_id()
        values = []
        for key, value in body.values.items():
            number = self._tensors.add(value) if key in places else None
            if number is not None:
                values.append([*places[key], number])
        return {
            "graph": graph,
            "values": values,
            "variables": [[self._handles.add(key), self._tensors.add(value)] for key, value in body.variables.items()],
            "written": [self._handles.add(key) for key in sorted(body.written)],
        }

    def _recorded(self, body: RecordedStep, *, is_needed: bool = True) -> dict[str, Any]:
        attributes: dict[str, int] = {}
        names: dict[str | None, int] = {}  # of ops and layers
        functions: dict[str, int] = {}
        events = []
        taken = {number for event in body.events for number in event.inputs}
        for event in body.events:
            op, attrs = event.op, []
            if op.startswith("__"):
                if op not in functions:
                    functions[op] = self._graphs.add(body.functions.get(op) or graphs.defined(op))
            elif op not in _ops.NEVER_RECORDED and _ops.is_allowed(op):
                attrs = attribute(list(event.attrs))
            elif not _is_given(event, body.tensors):
                if not is_needed or not any(number in taken for number in event.outputs):
                    continue
                op = f"{_ops.UNAVAILABLE}{op}"
            key = json.dumps(attrs)
            events.append([
                names.setdefault(op, len(names)),
                attributes.setdefault(key, len(attributes)),
                list(event.inputs),
                list(event.outputs),
                self._frames.line(event.line) if isinstance(event.line, tuple) else None,
                names.setdefault(event.layer, len(names)),
                self._forward(event.forward),
            ])  # fmt: skip
        tensors, variables = [], []
        for number, value in body.tensors.items():
            if value.dtype == tf.resource:
                variables.append([number, self._handles.add(execution.identity_of(value))])
            elif value.dtype != tf.variant:
                place = self._tensors.add(value)
                if place is not None:
                    tensors.append([number, place])
        return {
            "events": events,
            "attributes": [json.loads(key) for key in attributes],
            "names": list(names),
            "functions": functions,
            "tensors": tensors,
            "handles": variables,
        }

    def _forward(self, forward: Any) -> Any:
        if forward is None:
            return None
        if isinstance(forward, Forward):
            return [forward.op, list(forward.inputs), list(forward.outputs)]
        return [str(forward.type), [], []]

    def _references(self, references: Sequence[Any]) -> list[Any]:
        return [found for found in map(self._reference, references) if found is not None]

    def _reference(self, reference: Any) -> Any:
        return reference if isinstance(reference, int) else self._graphs.tensor(reference)

    def _pairs(self, pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
        return [[_num_replicas(variable), self._reference(reference)] for variable, reference in pairs]

    def _operands(self, operands: Sequence[tuple[str, Any]]) -> list[Any]:
        return [[name, self._reference(reference)] for name, reference in operands]

    def _answers(self, answers: Answers) -> dict[str, Any]:
        schedule, mapped = answers.schedule, answers.mapped
        return {
            "dataset_rows": [
                [list(rows), list(found) if found is not None else None] for rows, found in answers.dataset_rows.items()
            ],
            "rates": [[step, rate] for step, rate in answers.rates.items()],
            "rate": answers.rate,
            "schedule": None if schedule is None else [schedule[0], self._body(schedule[1]), schedule[2]],
            "mapped": None
            if mapped is None
            else [
                self._graphs.add(mapped[0]),
                [self._tensors.add(value) for value in mapped[1]],
                None if mapped[2] is None else list(mapped[2]),
            ],
        }


def _is_given(event: Event, tensors: dict[int, Any]) -> bool:
    """Whether an op that cannot be run elsewhere need not be: the recording has what it gave."""
    return event.op in _ops.GIVEN and bool(event.outputs) and all(number in tensors for number in event.outputs)


def _num_replicas(variable: Any) -> int:
    raw = getattr(variable, "_value", variable)
    values = getattr(variable if isinstance(variable, tf.Variable) or raw is None else raw, "_values", None)
    return len(values) if values else 0


def _optimizer(optimizer: Any) -> dict[str, float] | None:
    if optimizer is None:
        return None
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    found = {name: getattr(inner, name, None) for name in ("clipnorm", "global_clipnorm")}
    return {name: float(value) for name, value in found.items() if value}


def _shape(variable: Any) -> list[int] | None:
    shape = variable.shape
    return None if shape.rank is None else [int(size) if size is not None else -1 for size in shape]
