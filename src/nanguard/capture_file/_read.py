"""A capture from its JSON. Each number in it is looked up in a table; one that is in none is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import tensorflow as tf

from nanguard.backend import execution
from nanguard.capture import Answers, Capture, Event, Forward, Named, RecordedStep, Targets, TracedStep
from nanguard.capture_file import _ops
from nanguard.capture_file._frames import FrameReader
from nanguard.capture_file._graphs import GraphReader
from nanguard.capture_file._tensors import TensorReader, value_of
from nanguard.findings import SeenIn

_KINDS = ("weight", "slot", "state", "metric")
_FIRST_FREE = 1 << 40  # above the numbers of all eager tensors of this process


@dataclass(frozen=True)
class StoredVariable:
    """What is known of a variable that is not here."""

    shape: Any
    _values: tuple[None, ...] = ()


@dataclass(frozen=True)
class StoredOptimizer:
    """What a replay asks of an optimizer that is not here."""

    clipnorm: float | None = None
    global_clipnorm: float | None = None


class StepReader:
    """Makes a capture of its JSON.

    Args:
        path: The file's name, for messages.
        frames: Its frames.
        tensors: Its tensors.
        handles: Its variables.
        graphs: Its graphs.
    """

    def __init__(
        self, path: str, frames: FrameReader, tensors: TensorReader, handles: list[Any], graphs: GraphReader
    ) -> None:
        self._path = path
        self._frames = frames
        self._tensors = tensors
        self._handles = handles
        self._graphs = graphs
        self._numbers: dict[int, int] = {}  # of the body, as they are here by what they were

    def capture(self, stored: dict[str, Any]) -> Capture:
        """The whole capture."""
        body, self._numbers = self._body(stored["body"])
        before, _ = self._body(stored["before"])
        if before is not None and not isinstance(before, RecordedStep):
            raise ValueError("what ran before the step is no recording")
        seen_in = tuple(stored["seen_in"])
        if not set(seen_in) <= set(get_args(SeenIn)):
            raise ValueError("it was seen in no part of a step")
        scale_number = stored["scale_number"]
        return Capture(
            step=_whole(stored["step"]),
            epoch=None if stored["epoch"] is None else _whole(stored["epoch"]),
            seen_in=seen_in,
            targets=Targets(
                [self._reference(each) for each in stored["losses"]],
                self._pairs(stored["gradients"]),
                self._pairs(stored["updates"]),
                self._pairs(stored["state"]),
            ),
            body=body,
            batch=[(str(name), self._tensors.get(place)) for name, place in stored["batch"] if place is not None],
            stack=[self._frames.line(line) for line in stored["stack"]],
            history=[
                (_whole(step), float(loss), {str(path): float(norm) for path, norm in norms.items()})
                for step, loss, norms in stored["history"]
            ],
            optimizer=None if stored["optimizer"] is None else _optimizer(stored["optimizer"]),
            scale=None if stored["scale"] is None else self._key(stored["scale"]),
            scale_number=None if scale_number is None else self._numbers.get(scale_number),
            names={self._key(place): _named(path, kind, shape) for place, path, kind, shape in stored["names"]},
            bad_before=[str(path) for path in stored["bad_before"]],
            first_step=_whole(stored["first_step"]),
            trained={self._key(place) for place in stored["trained"]},
            bad_at_start={self._key(place) for place in stored["bad_at_start"]},
            compiled=stored["compiled"] is True,
            operands=None
            if stored["operands"] is None
            else [(str(name), self._reference(each)) for name, each in stored["operands"]],
            before=before,
            notes=[str(note) for note in stored["notes"]],
            answers=self._answers(stored["answers"]),
            is_stored=True,
        )

    def _handle(self, place: Any) -> Any:
        if not isinstance(place, int) or not 0 <= place < len(self._handles):
            raise ValueError(f"{place!r} is the place of no variable")
        return self._handles[place]

    def _key(self, place: Any) -> int:
        return execution.identity_of(self._handle(place))

    def _body(self, stored: dict[str, Any] | None) -> tuple[TracedStep | RecordedStep | None, dict[int, int]]:
        if stored is None:
            return None, {}
        return self._recorded(stored) if "events" in stored else (self._traced(stored), {})

    def _traced(self, stored: dict[str, Any]) -> TracedStep:
        variables = {self._key(place): self._tensors.get(number) for place, number in stored["variables"]}
        values = {id(self._graphs.tensor(place)): self._tensors.get(number) for *place, number in stored["values"]}
        written = {self._key(place) for place in stored["written"]}
        handles = {self._key(place): self._handle(place) for place, _ in stored["variables"]}
        return TracedStep(self._graphs.graph(stored["graph"]), values, variables, handles, written)

    def _recorded(self, stored: dict[str, Any]) -> tuple[RecordedStep, dict[int, int]]:
        # A variable's number is its handle's identity, which is another one here; all others keep their order.
        numbers = {_whole(number): self._key(place) for number, place in stored["handles"]}
        tensors: dict[int, Any] = {numbers[number]: self._handle(place) for number, place in stored["handles"]}
        others = {_whole(number) for _, _, taken, given, *_ in stored["events"] for number in (*taken, *given)}
        others |= {_whole(number) for number, _ in stored["tensors"]}
        for place, number in enumerate(sorted(others - numbers.keys())):
            numbers[number] = _FIRST_FREE + place
        tensors.update((numbers[number], self._tensors.get(place)) for number, place in stored["tensors"])
        functions = {str(name): self._graphs.graph(place) for name, place in stored["functions"].items()}
        attributes = [tuple(value_of(each)) for each in stored["attributes"]]
        names = stored["names"]
        events = []
        for op, attrs, taken, given, line, layer, forward in stored["events"]:
            kind = str(names[op])
            if not kind.startswith("__"):
                is_given = kind in _ops.GIVEN and given and all(numbers[number] in tensors for number in given)
                if not is_given:
                    _ops.check_recorded(kind, self._path)
            elif kind not in functions:
                raise ValueError(f"it calls the function {kind[:60]!r}, which it does not hold")
            events.append(
                Event(
                    kind,
                    attributes[attrs],
                    tuple(numbers[number] for number in taken),
                    tuple(numbers[number] for number in given),
                    None if line is None else self._frames.line(line),
                    names[layer],
                    _forward(forward, numbers),
                )
            )
        return RecordedStep(events, tensors, functions), numbers

    def _reference(self, stored: Any) -> Any:
        """A graph tensor or a number of the recording; for one that is in neither, something that no one finds."""
        if isinstance(stored, list):
            return self._graphs.tensor(stored)
        return object() if stored is None else self._numbers.get(_whole(stored), -1)

    def _pairs(self, stored: Sequence[Any]) -> list[tuple[Any, Any]]:
        return [
            (StoredVariable(None, (None,) * min(_whole(replicas), 4096)), self._reference(reference))
            for replicas, reference in stored
        ]

    def _answers(self, stored: dict[str, Any]) -> Answers:
        answers = Answers(
            {tuple(map(_whole, rows)): _rows(found) for rows, found in stored["dataset_rows"]},
            {_whole(step): float(rate) for step, rate in stored["rates"]},
            None if stored["rate"] is None else float(stored["rate"]),
        )
        if stored["schedule"] is not None:
            step, body, number = stored["schedule"]
            recorded, numbers = self._recorded(body)
            answers.schedule = (_whole(step), recorded, numbers[number])
        if stored["mapped"] is not None:
            graph, inputs, rows = stored["mapped"]
            values = [self._tensors.get(number) for number in inputs]
            answers.mapped = (self._graphs.graph(graph), values, _rows(rows))
        return answers


def _whole(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or abs(number) >= 1 << 62:
        raise ValueError(f"{str(number)[:60]!r} is no whole number")
    return number


def _rows(stored: list[Any] | None) -> tuple[int, ...] | None:
    return None if stored is None else tuple(map(_whole, stored))


def _forward(stored: list[Any] | None, numbers: dict[int, int]) -> Forward | None:
    if stored is None:
        return None
    op, taken, given = stored
    return Forward(str(op), *(tuple(numbers.get(number) for number in each) for each in (taken, given)))


def _named(path: Any, kind: Any, shape: list[int] | None) -> Named:
    if kind not in _KINDS:
        raise ValueError(f"{str(kind)[:60]!r} is no kind of variable")
    sizes = None if shape is None else [size if size >= 0 else None for size in map(_whole, shape)]
    return Named(str(path), StoredVariable(tf.TensorShape(sizes)), kind)


def _optimizer(stored: dict[str, Any]) -> StoredOptimizer:
    return StoredOptimizer(
        *(float(stored[name]) if name in stored else None for name in ("clipnorm", "global_clipnorm"))
    )
