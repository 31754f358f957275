"""Where the first non-finite number on the way to an incident was born."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nanguard.backend.values import array
from nanguard.capture import Event
from nanguard.replay.program import Program

Phase = Literal["forward", "backward", "update"]
SELECTS = frozenset({"SelectV2", "Select"})
_NEAR = 4  # ops between a value and the `tf.where` that may throw it away


@dataclass(frozen=True)
class Birth:
    """The place where a non-finite number came to be.

    Args:
        event: The op that made it; None if it came in from outside of the step.
        leaf: Number of the input that held it, if it came from outside.
        phase: Part of the step that the op belongs to.
        chain: Events from the birth to where the incident was seen.
    """

    event: Event | None
    leaf: int | None
    phase: Phase
    chain: tuple[Event, ...]


class Steps:
    """Which part of the step each event belongs to, by where the losses and the gradients were made."""

    def __init__(self, program: Program, losses: Iterable[int], gradients: Iterable[int]) -> None:
        losses, gradients = list(losses), list(gradients)
        self._program = program
        self._tagged = max((place for place, e in enumerate(program.events) if e.forward is not None), default=None)
        self._loss = max((place for place in map(program.place, losses) if place is not None), default=None)
        self._gradients = max((place for place in map(program.place, gradients) if place is not None), default=None)
        if self._gradients is None and not losses:
            # Judged by the update alone; if no gradient was taken in it, there is nothing else.
            self._gradients = self._tagged if self._tagged is not None else -1

    def phase(self, event: Event, place: int) -> Phase:
        """The part of the step that an event belongs to."""
        if self._gradients is not None and place > self._gradients and event.forward is None:
            return "update"
        if event.forward is not None or (self._loss is not None and place > self._loss):
            return "backward"
        return "forward"


def find(program: Program, seen: list[int], steps: Steps, constants: set[int], *, is_loss_finite: bool) -> list[Birth]:
    """Follows the non-finite numbers of an incident back to where they were born.

    Args:
        program: The replayed step.
        seen: Numbers of the non-finite tensors in which the incident shows.
        steps: The parts of the step.
        constants: Leaves that the script wrote down itself, such as a mask of `-inf`: not to blame.
        is_loss_finite: Whether the loss is finite: then no forward op is to blame for a gradient.

    Returns:
        The births, the first one first; empty if nothing that was seen is non-finite in the replay.
    """
    parents = _ancestors(program, seen)
    if not parents:
        return []
    births: list[Birth] = []
    for number in parents:
        place = program.place(number)
        if place is None:
            if number not in constants or _has_nan(program, number):
                births.append(Birth(None, number, "forward", _chain(program, number, parents)))
            continue
        event = program.events[place]
        bad = [each for each in event.inputs if not program.is_finite(each)]
        phase = steps.phase(event, place)
        if not bad or _is_made_of_constants(program, event, bad, constants, number):
            births.append(Birth(event, None, phase, _chain(program, number, parents)))
    births = _without_harmless(program, births, parents, steps, is_loss_finite=is_loss_finite)
    return sorted(births, key=lambda birth: _order(program, birth))


def _order(program: Program, birth: Birth) -> tuple[int, int]:
    if birth.event is None:
        return (0, birth.leaf or 0)
    return (1, program.place(birth.event.outputs[0]) or 0)


def _ancestors(program: Program, seen: list[int]) -> dict[int, int | None]:
    """Every non-finite tensor from which one of `seen` was made, with the tensor that it led to."""
    parents: dict[int, int | None] = {number: None for number in seen if not program.is_finite(number)}
    waiting = deque(parents)
    while waiting:
        number = waiting.popleft()
        event = program.maker(number)
        for each in event.inputs if event is not None else ():
            if each not in parents and not program.is_finite(each):
                parents[each] = number
                waiting.append(each)
    return parents


def _chain(program: Program, number: int, parents: dict[int, int | None]) -> tuple[Event, ...]:
    events = []
    current: int | None = number
    while current is not None:
        event = program.maker(current)
        if event is not None:
            events.append(event)
        current = parents[current]
    return tuple(events)


def _is_made_of_constants(program: Program, event: Event, bad: list[int], constants: set[int], output: int) -> bool:
    """Whether an op makes a NaN out of infinities that the script wrote down by design."""
    if not _has_nan(program, output) or any(_has_nan(program, number) for number in bad):
        return False
    return all(_comes_from_constants(program, number, constants) for number in bad)


def _comes_from_constants(program: Program, number: int, constants: set[int]) -> bool:
    waiting = [number]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if current in seen or program.is_finite(current):
            continue
        seen.add(current)
        event = program.maker(current)
        if event is None:
            if current not in constants:
                return False
            continue
        bad = [each for each in event.inputs if not program.is_finite(each)]
        if not bad:
            return False
        waiting += bad
    return True


def _without_harmless(
    program: Program, births: list[Birth], parents: dict[int, int | None], steps: Steps, *, is_loss_finite: bool
) -> list[Birth]:
    """Sets births of the forward pass aside that the loss does not feel, for where they do harm in the backward pass.

    With `tf.where(x > 0, log(x), 0)` the logarithm of 0 is not used; that its gradient is 0 times infinity is what
    hurts.
    """
    if not is_loss_finite:
        return births
    thrown_away = [birth for birth in births if birth.phase == "forward" and _is_selected_away(program, birth.event)]
    if not thrown_away:
        return births
    kept = [birth for birth in births if birth not in thrown_away]
    for number in parents:
        place = program.place(number)
        if place is None:
            continue
        event = program.events[place]
        if steps.phase(event, place) == "forward":
            continue
        bad = [each for each in event.inputs if not program.is_finite(each)]
        if bad and all(_is_forward(program, each, steps) for each in bad):
            kept.append(Birth(event, None, steps.phase(event, place), _chain(program, number, parents)))
    return kept or births


def _is_selected_away(program: Program, event: Event | None) -> bool:
    """Whether the output of a forward op goes into a `tf.where`, at once or through a few elementwise ops."""
    current = set(event.outputs) if event is not None else set()
    for _ in range(_NEAR):
        takers = [each for each in program.events if each.forward is None and current & set(each.inputs)]
        if any(each.op in SELECTS for each in takers):
            return True
        current = {number for each in takers for number in each.outputs}
    return False


def _is_forward(program: Program, number: int, steps: Steps) -> bool:
    place = program.place(number)
    return place is not None and steps.phase(program.events[place], place) == "forward"


def _has_nan(program: Program, number: int) -> bool:
    value = program.values.get(number)
    return value is not None and value.dtype.is_floating and bool(np.isnan(array(value)).any())
