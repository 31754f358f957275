"""A failed step as a straight list of ops, with the value of every tensor; it can be run again with other inputs.

A traced step is interpreted op by op from its graph, through calls, branches and loops, on the very kernels that eager
mode has; a recorded step is run again from its events. Both become the same `Program`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.backend import execution, graphs
from nanguard.backend.values import array, holds_floats, is_finite
from nanguard.capture import Capture, Event, RecordedStep, TracedStep
from nanguard.errors import ReplayError
from nanguard.guard.eager import NOT_REPEATABLE
from nanguard.replay.machine import Machine, widened

_HALF = (tf.float16, tf.bfloat16)
_EPSILON = 1e-8  # what a constant that half precision rounded to 0 may have been meant as
_MASK = 1e9  # and one that it made infinite
_BELOW_ONE = 1.0 - 1e-7  # what an upper bound that half precision rounded to 1 may have been meant as
_UPPER_BOUNDS = frozenset({"Minimum", "ClipByValue"})
_MOST_EVENTS = 3_000_000
# Ops with an effect outside of the step, or none on its numbers.
_LEFT_OUT = frozenset({
    "NoOp", "PrintV2", "Assert", "WriteScalarSummary", "WriteHistogramSummary", "WriteImageSummary", "WriteSummary",
    "WriteGraphSummary", "WriteRawProtoSummary", "FlushSummaryWriter", "CheckNumerics", "CheckNumericsV2",
})  # fmt: skip
_PASSED_THROUGH = frozenset({"CheckNumerics", "CheckNumericsV2"})


@dataclass(eq=False)
class Failure:
    """An op that raised in the replay."""

    event: Event
    message: str


@dataclass(eq=False)
class Program:
    """A step, op by op.

    Args:
        events: The ops in the order in which they ran.
        values: Every tensor of the step by its number.
        leaves: Numbers of the tensors that no event made.
        variables: Values of the variables before the step, by handle identity.
        after: Values of the variables after the step.
        numbers: Number of each graph tensor, by its `id`; of the last time for a tensor inside a loop.
        constants: Numbers of the leaves that the graph itself holds.
        pinned: Numbers of tensors that no other run would give again, such as random numbers.
        written: Writes of variables: handle identity, number of the value, the event.
        failure: The op that raised, if one did; no event follows it.
    """

    events: list[Event] = field(default_factory=list)
    values: dict[int, Any] = field(default_factory=dict)
    leaves: set[int] = field(default_factory=set)
    variables: dict[int, Any] = field(default_factory=dict)
    after: dict[int, Any] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    constants: set[int] = field(default_factory=set)
    pinned: set[int] = field(default_factory=set)
    written: list[tuple[int, int, Event]] = field(default_factory=list)
    failure: Failure | None = None
    _maker: dict[int, int] = field(default_factory=dict)
    _finite: dict[int, bool] = field(default_factory=dict)

    def add(self, event: Event, outputs: list[Any]) -> None:
        """Adds an event that ran."""
        if len(self.events) >= _MOST_EVENTS:
            raise ReplayError(f"The step has more than {_MOST_EVENTS} ops.")
        for number, value in zip(event.outputs, outputs, strict=True):
            self.values[number] = value
            self._maker[number] = len(self.events)
            if value.dtype == tf.variant:
                # A list of tensors cannot be looked into; it holds what was put into it.
                self._finite[number] = all(map(self.is_finite, event.inputs))
        if len(event.inputs) > 1 and not event.outputs and self.values[event.inputs[0]].dtype == tf.resource:
            self.written.append((execution.identity_of(self.values[event.inputs[0]]), event.inputs[-1], event))
        self.events.append(event)

    def place(self, number: int) -> int | None:
        """Place in `events` of the op that made a tensor; None for a leaf."""
        return self._maker.get(number)

    def maker(self, number: int) -> Event | None:
        """The op that made a tensor; None for a leaf."""
        place = self._maker.get(number)
        return None if place is None else self.events[place]

    def is_finite(self, number: int) -> bool:
        """Whether all numbers of a tensor are finite."""
        known = self._finite.get(number)
        if known is None:
            value = self.values.get(number)
            known = self._finite[number] = value is None or not holds_floats(value) or is_finite(value)
        return known

    def is_finite_with(
        self,
        targets: Iterable[int],
        *,
        leaves: dict[int, Any] | None = None,
        variables: dict[int, Any] | None = None,
        is_widened: bool = False,
    ) -> bool | None:
        """Runs the step again with other inputs.

        Args:
            targets: Numbers of the tensors that are asked for.
            leaves: Other values of inputs, by number.
            variables: Other values of variables, by handle identity.
            is_widened: Whether half-precision ops run in float32.

        Returns:
            Whether all targets are finite; None if an op raised.
        """
        wanted = set(targets)
        needed, last = self._needed(wanted)
        machine = Machine({**self.variables, **(variables or {})}, is_widened=is_widened)
        values: dict[int, Any] = {}
        replaced = leaves or {}

        def value(number: int) -> Any:
            if number in values:
                return values[number]
            found = replaced[number] if number in replaced else self.values[number]
            if is_widened and holds_floats(found):
                is_constant = found.dtype in _HALF and number not in self._maker and found.shape.rank == 0
                return _meant(found) if is_constant else widened(found)
            return found

        for place in needed:
            event = self.events[place]
            if any(number in self.pinned for number in event.outputs):
                outputs = [value(number) for number in event.outputs]
            else:
                try:
                    inputs = [value(number) for number in event.inputs]
                    if is_widened and event.op in _UPPER_BOUNDS:
                        inputs = [_below_one(each) for each in inputs]
                    outputs = machine.run(event.op, event.attrs, inputs, len(event.outputs))
                except (tf.errors.OpError, ValueError, TypeError):
                    return None
            for number, output in zip(event.outputs, outputs, strict=True):
                if number in wanted and holds_floats(output) and not is_finite(output):
                    return False
                values[number] = output
            for number in last.get(place, ()):
                values.pop(number, None)
        return all(number in values or is_finite(value(number)) for number in wanted)

    def _needed(self, targets: set[int]) -> tuple[list[int], dict[int, list[int]]]:
        """Places of the events that the targets need, and the tensors that can be let go after each."""
        writers: dict[int, list[int]] = {}
        for place, event in enumerate(self.events):
            if event.inputs and not event.outputs:
                writers.setdefault(event.inputs[0], []).append(place)
        keep: set[int] = set()
        waiting = [self._maker[number] for number in targets if number in self._maker]
        while waiting:
            place = waiting.pop()
            if place in keep:
                continue
            keep.add(place)
            event = self.events[place]
            for number in event.inputs:
                if number in self._maker:
                    waiting.append(self._maker[number])
                waiting += [writer for writer in writers.get(number, ()) if writer < place and writer not in keep]
        order = sorted(keep)
        last_use: dict[int, int] = {}
        for place in order:
            for number in (*self.events[place].inputs, *self.events[place].outputs):
                last_use[number] = place
        last: dict[int, list[int]] = {}
        for number, place in last_use.items():
            if number not in targets:
                last.setdefault(place, []).append(number)
        return order, last


def build(capture: Capture) -> Program:
    """Runs a captured step again, op by op."""
    if isinstance(capture.body, TracedStep):
        return _interpret(capture.body)
    if capture.body is None:
        raise ReplayError("There is no step to run again.")
    return _rerun(capture.body)


def of_graph(graph: Any, inputs: list[Any]) -> Program:
    """Runs a function's graph on eager tensors, op by op."""
    values = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=False)}
    return _interpret(TracedStep(graph, values, {}, {}))


def _interpret(body: TracedStep) -> Program:
    interpreter = _Interpreter(dict(body.variables), body.written)
    program = interpreter.program
    inputs: list[int | None] = []
    for tensor in body.graph.inputs:
        value = body.values.get(id(tensor))
        if value is None:
            value = graphs.external(body.graph, tensor)
        inputs.append(interpreter.leaf(value) if value is not None else None)
    for key, value in body.values.items():
        interpreter.fixed[key] = value
    interpreter.run_graph(body.graph, inputs)
    program.variables = dict(body.variables)
    program.after = interpreter.machine.variables
    return program


def _rerun(body: RecordedStep) -> Program:
    variables: dict[int, Any] = {}
    written: set[int] = set()
    for event in body.events:
        if event.op == "ReadVariableOp" and event.outputs[0] in body.tensors:
            if event.inputs[0] not in variables and event.inputs[0] not in written:
                variables[event.inputs[0]] = body.tensors[event.outputs[0]]
        elif event.inputs and not event.outputs:
            written.add(event.inputs[0])
    interpreter = _Interpreter(dict(variables), set(), first_number=1 + max(_all_numbers(body), default=0))
    program = interpreter.program
    made: set[int] = set()
    for event in body.events:
        made.update(event.outputs)
    for number, value in body.tensors.items():
        if number not in made:
            program.values[number] = value
            program.leaves.add(number)
    for event in body.events:
        if any(number not in program.values for number in event.inputs):
            continue  # made by an op that was not recorded
        values = [program.values[number] for number in event.inputs]
        if event.op.startswith("__"):
            results = interpreter.call(
                body.functions.get(event.op) or graphs.defined(event.op), list(event.inputs), len(event.outputs), event
            )
            if results is None:
                break
            for number, result in zip(event.outputs, results, strict=True):
                if result is not None:
                    program.values[number] = program.values[result]
                    program._maker[number] = program._maker.get(result, -1)
                    interpreter.alias(number, result)
            continue
        if (event.op in NOT_REPEATABLE and event.op != "ReadVariableOp" and event.outputs) or (
            event.op == "ReadVariableOp" and event.inputs[0] not in interpreter.machine.variables
        ):
            if any(number not in body.tensors for number in event.outputs):
                continue  # kept no longer
            outputs = [body.tensors[number] for number in event.outputs]
            program.pinned.update(event.outputs)
        else:
            maybe = interpreter.attempt(event, values)
            if maybe is None:
                break
            outputs = maybe
        program.add(event, outputs)
    program.variables = variables
    program.after = interpreter.machine.variables
    return program


def _all_numbers(body: RecordedStep) -> Iterable[int]:
    for event in body.events:
        yield from event.inputs
        yield from event.outputs


class _Interpreter:
    """Runs graphs op by op and writes down what happens."""

    def __init__(self, variables: dict[int, Any], written: set[int], first_number: int = 1) -> None:
        self.program = Program()
        self.machine = Machine(variables)
        self.fixed: dict[int, Any] = {}  # values by `id` of graph tensor, for ops that are not run
        self._written = written
        self._num_graphs = 0
        self._count = itertools.count(first_number)

    def leaf(self, value: Any) -> int:
        """Adds an input; gives its number."""
        number = next(self._count)
        self.program.values[number] = value
        self.program.leaves.add(number)
        return number

    def alias(self, number: int, result: int) -> None:
        """Makes a number of a recording stand for a tensor that the interpreter made."""
        self.program.add(
            Event("Identity", ("T", self.program.values[result].dtype.as_datatype_enum), (result,), (number,)),
            [self.program.values[result]],
        )

    def attempt(self, event: Event, values: list[Any]) -> list[Any] | None:
        """Runs one op; None if it raised, which ends the program."""
        try:
            return self.machine.run(event.op, event.attrs, values, len(event.outputs))
        except (tf.errors.OpError, ValueError, TypeError) as error:
            message = getattr(error, "message", str(error))
            self.program.failure = Failure(event, str(message).split(" [Op:")[0].strip())
            return None

    def call(
        self, graph: Any, inputs: Sequence[int | None], num_outputs: int, caller: Event | None = None
    ) -> list[Any] | None:
        """Runs a function's graph on numbered inputs; gives the numbers of its outputs, or None if an op raised."""
        if self.run_graph(graph, inputs, caller) is None:
            return None
        return [self.program.numbers.get(id(tensor)) for tensor in graph.outputs[:num_outputs]]

    def run_graph(self, graph: Any, inputs: Sequence[int | None], caller: Event | None = None) -> bool | None:
        """Runs all ops of a graph in the order in which they were made; None if one raised."""
        # A loop or a call without an op in it adds no event.
        self._num_graphs += 1
        if self._num_graphs > _MOST_EVENTS:
            raise ReplayError(f"The step has more than {_MOST_EVENTS} calls and turns of loops.")
        numbers = self.program.numbers
        for tensor, number in zip(graph.inputs, inputs, strict=False):
            if number is not None:
                numbers[id(tensor)] = number
            else:
                numbers.pop(id(tensor), None)
        done: set[Any] = set()
        for op in graph.get_operations():
            if op not in done and self._run(op, caller, done) is None:
                return None
        return True

    def _run(self, op: Any, caller: Event | None, done: set[Any]) -> bool | None:
        done.add(op)
        if op.type == "Placeholder" or graphs.is_nanguards(op):
            return True
        # The gradient of a loop gives the loop new inputs, which were made after it.
        for tensor in op.inputs:
            if tensor.op not in done and self._run(tensor.op, caller, done) is None:
                return None
        return self._run_ready(op, caller)

    def _run_ready(self, op: Any, caller: Event | None) -> bool | None:
        numbers = self.program.numbers
        if any(id(tensor) in self.fixed for tensor in op.outputs):
            for tensor in op.outputs:
                numbers[id(tensor)] = self.leaf(self.fixed[id(tensor)])
            return True
        if op.type in _LEFT_OUT:
            if op.type in _PASSED_THROUGH and id(op.inputs[0]) in numbers:
                numbers[id(op.outputs[0])] = numbers[id(op.inputs[0])]
            return True
        inputs = [numbers.get(id(tensor)) for tensor in op.inputs]
        if any(number is None for number in inputs):
            for tensor in op.outputs:
                numbers.pop(id(tensor), None)
            return True
        known = [number for number in inputs if number is not None]
        run = getattr(self, f"_run_{_KINDS.get(op.type, 'plain')}")
        results = run(op, known, caller)
        if results is None:
            return None
        for tensor, number in zip(op.outputs, results, strict=False):
            if number is None:
                numbers.pop(id(tensor), None)
            else:
                numbers[id(tensor)] = number
        return True

    def _run_plain(self, op: Any, inputs: list[int], caller: Event | None) -> list[int] | None:
        values = [self.program.values[number] for number in inputs]
        if self._written and op.inputs and not op.outputs and values[0].dtype == tf.resource:
            key = Machine._key(values[0])
            if key in self._written:
                return []  # the failed step had made this update before it was stopped
        event = Event(
            op.type,
            execution.attributes(op),
            tuple(inputs),
            tuple(next(self._count) for _ in op.outputs),
            op,
            None,
            graphs.forward_op(op) or (caller.forward if caller is not None else None),
        )
        outputs = self.attempt(event, values)
        if outputs is None:
            return None
        self.program.add(event, outputs)
        return list(event.outputs)

    def _run_constant(self, op: Any, inputs: list[int], caller: Event | None) -> list[int]:
        number = self.leaf(tf.constant(tf.make_ndarray(op.get_attr("value")), op.outputs[0].dtype))
        self.program.constants.add(number)
        return [number]

    def _run_call(self, op: Any, inputs: list[int], caller: Event | None) -> list[Any] | None:
        return self.call(graphs.called(op.graph, op.get_attr("f").name), inputs, len(op.outputs), caller)

    def _run_if(self, op: Any, inputs: list[int], caller: Event | None) -> list[Any] | None:
        predicate = bool(array(self.program.values[inputs[0]]).all())
        branch = op.get_attr("then_branch" if predicate else "else_branch")
        return self.call(graphs.called(op.graph, branch.name), inputs[1:], len(op.outputs), caller)

    def _run_case(self, op: Any, inputs: list[int], caller: Event | None) -> list[Any] | None:
        branches = op.get_attr("branches")
        chosen = int(array(self.program.values[inputs[0]]))
        branch = branches[chosen if 0 <= chosen < len(branches) else -1]
        return self.call(graphs.called(op.graph, branch.name), inputs[1:], len(op.outputs), caller)

    def _run_while(self, op: Any, inputs: list[int], caller: Event | None) -> list[Any] | None:
        condition = graphs.called(op.graph, op.get_attr("cond").name)
        body = graphs.called(op.graph, op.get_attr("body").name)
        state: list[Any] = list(inputs)
        while True:
            going = self.call(condition, state, 1, caller)
            if going is None:
                return None
            if not bool(array(self.program.values[going[0]]).all()):
                return state
            state_or_none = self.call(body, state, len(op.outputs), caller)
            if state_or_none is None:
                return None
            state = state_or_none


_KINDS = {
    "Const": "constant",
    "PartitionedCall": "call",
    "StatefulPartitionedCall": "call",
    "If": "if",
    "StatelessIf": "if",
    "Case": "case",
    "StatelessCase": "case",
    "While": "while",
    "StatelessWhile": "while",
}


def _meant(constant: Any) -> Any:
    """A half-precision constant as it may have been before it was rounded."""
    value = float(array(constant))
    return tf.constant(_EPSILON if value == 0.0 else float(np.clip(value, -_MASK, _MASK)))


def _below_one(bound: Any) -> Any:
    is_one = bound.shape.rank == 0 and bound.dtype == tf.float32 and float(bound) == 1.0
    return tf.constant(_BELOW_ONE) if is_one else bound
