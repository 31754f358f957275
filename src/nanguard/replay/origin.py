"""Where an op of a replay comes from: the user's line, the layer, and for a gradient the forward op."""

from __future__ import annotations

import linecache
import os
from dataclasses import dataclass
from typing import Any

from nanguard.backend import graphs
from nanguard.capture import Event, Forward
from nanguard.findings import Where
from nanguard.guard import source
from nanguard.replay import names
from nanguard.replay.program import Program

Line = tuple[str, int, str]


@dataclass(frozen=True)
class Origin:
    """Where an op comes from.

    Args:
        op: TensorFlow's type of the op.
        line: The user's innermost line on the stack that made it, or None.
        layer: Keras path of the layer in whose call it was made, or None.
        turn: Which op of its type it is among those that the same line made.
        turns: How many of them there are.
    """

    op: str
    line: Line | None
    layer: str | None
    turn: int = 0
    turns: int = 1

    def users_line(self) -> Line | None:
        """The line with its number set right: in a statement of several lines, the one on which the op stands."""
        if self.line is None:
            return None
        file, number, function = self.line
        return file, names.line_of(self.op, file, number, self.turn, self.turns), function


def of_event(event: Event) -> Origin:
    """Where an event's own op comes from."""
    if event.line is None or isinstance(event.line, tuple):
        return Origin(event.op, event.line, event.layer)
    return _of_graph_op(event.line)


def of_forward(program: Program, event: Event) -> Origin | None:
    """Where the forward op comes from whose gradient an event is; None for an op of the forward pass."""
    forward = event.forward
    if forward is None:
        return None
    if not isinstance(forward, Forward):
        return _of_graph_op(forward)
    found = recorded_forward(program, forward)
    return of_event(found) if found is not None else Origin(forward.op, None, None)


def recorded_forward(program: Program, forward: Forward) -> Event | None:
    """The event of a recording that a gradient belongs to."""
    for number in forward.outputs:
        if number is not None:
            maker = program.maker(number)
            if maker is not None:
                return maker
    known = {number for number in forward.inputs if number is not None}
    for event in program.events:
        if event.op == forward.op and event.forward is None and known and known <= set(event.inputs):
            return event
    return None


def _of_graph_op(op: Any) -> Origin:
    line = _line_of_op(op)
    if line is None:
        return Origin(op.type, None, graphs.layer(op))
    same = [
        each.name
        for each in op.graph.get_operations()
        if each.type == op.type and graphs.forward_op(each) is None and _line_of_op(each) == line
    ]
    turn = same.index(op.name) if op.name in same else 0
    return Origin(op.type, line, graphs.layer(op), turn, max(len(same), 1))


def _line_of_op(op: Any) -> Line | None:
    lines = [line for line in graphs.frames(op) if source.is_users(line[0])]
    return lines[-1] if lines else None


def innermost(stack: list[Line]) -> Line | None:
    """The user's innermost line of a stack."""
    lines = [line for line in stack if source.is_users(line[0])]
    return lines[-1] if lines else None


def where(line: Line | None) -> Where | None:
    """A line as a finding shows it."""
    if line is None:
        return None
    file, number, function = line
    code = linecache.getline(file, number).strip()
    path = os.path.relpath(file) if os.path.isabs(file) and _is_below_here(file) else file
    return Where(path, number, function, code)


def _is_below_here(file: str) -> bool:
    return os.path.abspath(file).startswith(os.path.join(os.getcwd(), ""))
