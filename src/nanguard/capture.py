"""A failed step, held in memory: all that a replay needs to run it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nanguard.findings import SeenIn


@dataclass(frozen=True)
class Named:
    """A variable of the script, by the name that its user knows it under.

    Args:
        path: Keras path such as `encoder/head/kernel`, or TensorFlow's name.
        variable: The TensorFlow variable.
        kind: `weight`, `slot` (of an optimizer), `state` (of a layer) or `metric`.
    """

    path: str
    variable: Any
    kind: str


@dataclass
class Targets:
    """What a step is judged by. Each entry refers to a value of the step: a graph tensor, or a number of the recording.

    Args:
        losses: What was differentiated.
        gradients: The gradient of each variable: pairs of variable and reference.
        updates: What was written into weights and slots: pairs of variable and reference.
        state: What was written into layer state: pairs of variable and reference.
    """

    losses: list[Any] = field(default_factory=list)
    gradients: list[tuple[Any, Any]] = field(default_factory=list)
    updates: list[tuple[Any, Any]] = field(default_factory=list)
    state: list[tuple[Any, Any]] = field(default_factory=list)


class Event:
    """One op that ran.

    Args:
        op: TensorFlow's type of the op; for a traced function the name of the function.
        attrs: Attributes, as the eager runtime takes them.
        inputs: Numbers of the input tensors.
        outputs: Numbers of the output tensors.
        line: The user's line that made it (file, line, function), or a graph op that knows it, or None.
        layer: Keras path of the layer that was being called, or None.
        forward: For an op of the backward pass, what it is the gradient of: a `Forward` or a graph op; else None.
    """

    __slots__ = ("attrs", "forward", "inputs", "layer", "line", "op", "outputs")

    def __init__(
        self,
        op: str,
        attrs: tuple[Any, ...],
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        line: Any = None,
        layer: str | None = None,
        forward: Any = None,
    ) -> None:
        self.op = op
        self.attrs = attrs
        self.inputs = inputs
        self.outputs = outputs
        self.line = line
        self.layer = layer
        self.forward = forward


class Forward(NamedTuple):
    """The forward op that a recorded gradient op belongs to: its type, and its tensors as far as they are known."""

    op: str
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]


@dataclass
class TracedStep:
    """A step that ran as a graph.

    Args:
        graph: The traced graph of the step's function or loop body.
        values: Values of graph tensors as they were in the failed step, by `id` of the tensor: the inputs, and what
            no replay could compute again, such as random numbers.
        variables: Values of the variables before the step, by the identity of their handle.
        handles: The variables' handles, by the same identity.
        written: Identities of the handles whose update the failed step had made already.
    """

    graph: Any
    values: dict[int, Any]
    variables: dict[int, Any]
    handles: dict[int, Any]
    written: set[int] = field(default_factory=set)


@dataclass
class RecordedStep:
    """A step that ran eagerly: its ops as they ran.

    Args:
        events: The ops, oldest first.
        tensors: Values that no event of the recording made, and what no replay could make again, by number.
        functions: Graphs of the traced functions that it calls, where the runtime does not know them: in a capture
            that came out of a file.
    """

    events: Sequence[Event]
    tensors: dict[int, Any]
    functions: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answers:
    """What an explanation asked of the world around a step. A capture file carries the answers in the world's place.

    Args:
        dataset_rows: Rows of the data set by rows of the batch; None where they could not be told.
        rates: Learning rates by step.
        rate: The learning rate at the time, or None.
        schedule: A schedule as it was asked for a step's rate: the step, the ops, the number of the rate; or None.
        mapped: Functions of the data pipeline that made bad data: graph, inputs, rows of the data set or None.
    """

    dataset_rows: dict[tuple[int, ...], tuple[int, ...] | None] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    rate: float | None = None
    schedule: tuple[int, RecordedStep, int] | None = None
    mapped: tuple[Any, list[Any], tuple[int, ...] | None] | None = None


@dataclass
class Capture:
    """A step whose loss, gradients, weights or state were not finite, or one call of a function that was tested.

    Args:
        step: Number of updates that the optimizer had made before.
        epoch: Epoch of `fit`, from 0; None outside.
        seen_in: Where the watch saw a non-finite number.
        targets: What the step is judged by.
        body: The step itself; None if weights were found to be not finite between two steps.
        batch: Data tensors that the step was given, as (name, eager tensor); the first is the features where known.
        stack: The Python stack of the call that ran the step, outermost first: file, line, function.
        history: One row for each of the last steps: step, loss, gradient norm by variable path.
        optimizer: The Keras optimizer concerned, or None.
        scale: Handle identity of a dynamic loss scale, where the loss was scaled and only the gradients are not finite.
        scale_number: The same for a recorded step that took the scale from no variable: the scale's number in it.
        names: What the script's variables are called, by handle identity.
        sources: Arrays, frames and data sets that training was given, for finding the rows of the data set.
        bad_before: Names of variables that were not finite before the step.
        first_step: Updates that the optimizer had made when the watch first saw it.
        trained: Identities of the handles of the variables that the step trains.
        bad_at_start: Identities of the handles of variables that were not finite when the watch first saw them.
        compiled: Whether XLA ran the step.
        operands: What the function was given, for one call outside of any training: pairs of name and reference. None
            for a step of a training. In a call nothing has diverged, no operand is a batch of data, and no row is to
            blame.
        before: Eager ops that ran outside of steps, which may have made the data; None if there were none.
        notes: What is worth saying beside the incident.
        answers: What an explanation asked of the script's data and optimizer.
        is_stored: Whether it came out of a file: then there are no script, data and optimizer to ask, only `answers`.
    """

    step: int
    epoch: int | None
    seen_in: tuple[SeenIn, ...]
    targets: Targets
    body: TracedStep | RecordedStep | None
    batch: list[tuple[str, Any]] = field(default_factory=list)
    stack: list[tuple[str, int, str]] = field(default_factory=list)
    history: list[tuple[int, float, dict[str, float]]] = field(default_factory=list)
    optimizer: Any = None
    scale: int | None = None
    scale_number: int | None = None
    names: dict[int, Named] = field(default_factory=dict)
    sources: list[Any] = field(default_factory=list)
    bad_before: list[str] = field(default_factory=list)
    first_step: int = 0
    trained: set[int] = field(default_factory=set)
    bad_at_start: set[int] = field(default_factory=set)
    compiled: bool = False
    operands: list[tuple[str, Any]] | None = None
    before: RecordedStep | None = None
    notes: list[str] = field(default_factory=list)
    answers: Answers = field(default_factory=Answers)
    is_stored: bool = False
