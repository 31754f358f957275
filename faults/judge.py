"""What a fault did without a guard, and what came of it with one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faults.runs import INTO_STATE, Fault, Seen


@dataclass(frozen=True)
class Verdict:
    """One fault in one training.

    Args:
        arm: Who guarded it.
        family: A key of `FAMILIES`.
        mode: `fit` or the kind of loop, graph or XLA, dtype.
        fault: The fault.
        is_nonfinite: Whether it makes a loss, a gradient, a weight, a slot or layer state non-finite without a guard.
        is_caught: Whether the first step in which that happens was refused, and none before it.
        is_clean: Whether all variables are then what they were before that step, bit for bit.
        is_restored: For a fault in the state with rollback: whether the end is that of a run without fault and without
            the refused batches, bit for bit. Elsewhere None.
        is_finite: Whether all variables are finite at the end, but for a number that was put there.
        change: Final loss over that of the run without a fault, less 1.
        note: What is wrong, if something is.
    """

    arm: str
    family: str
    mode: str
    fault: Fault
    is_nonfinite: bool
    is_caught: bool
    is_clean: bool
    is_finite: bool
    change: float
    is_restored: bool | None = None
    note: str = ""

    @property
    def is_miss(self) -> bool:
        """Whether a bar is missed."""
        return bool(self.note)


def first(flags: Sequence[bool]) -> int | None:
    """The place of the first True."""
    return next((place for place, is_set in enumerate(flags) if is_set), None)


def risen(counts: Sequence[int]) -> list[bool]:
    """Where a running count went up."""
    return [now > before for before, now in zip((0, *counts), counts, strict=False)]


def first_bad(seen: Seen) -> int | None:
    """The first step of an unguarded run that was not finite, or in which scaled gradients overflowed."""
    return first([bad or overflow for bad, overflow in zip(seen.bad, risen(seen.overflows), strict=True)])


def differing(one: Sequence[np.ndarray], other: Sequence[np.ndarray], excused: Sequence[int] = ()) -> list[int]:
    """Places of the arrays that differ in a bit."""
    if len(one) != len(other):
        return [-1]
    pairs = enumerate(zip(one, other, strict=True))
    return [place for place, (a, b) in pairs if place not in excused and a.tobytes() != b.tobytes()]


def are_finite(arrays: Sequence[np.ndarray]) -> bool:
    """Whether all numbers are finite."""
    return all(bool(np.isfinite(a).all()) for a in arrays if a.dtype.kind == "f")


def change(final: float, clean: float) -> float:
    """How far a final loss is from the clean run's, relative to it."""
    return final / clean - 1.0 if math.isfinite(final) else math.inf


def of_guard(
    arm: str, family: str, mode: str, fault: Fault, at: int | None, seen: Seen, *, references: dict[int, Seen],
    clean: Seen, scales: Sequence[int], names: Sequence[str],
) -> Verdict:  # fmt: skip
    """Judges a guarded run.

    Args:
        arm: Who guarded it.
        family: The family's name.
        mode: How it was trained.
        fault: The fault.
        at: The first step that is not finite without a guard, or None.
        seen: The guarded run.
        references: Guarded runs that never saw the batch of the step.
        clean: The guarded run without a fault.
        scales: Places of the variables of loss scale optimizers.
        names: Paths of the variables.
    """
    refused = [a or b for a, b in zip(risen(seen.skipped), risen(seen.overflows), strict=True)]
    moved = change(seen.final, clean.final)
    is_finite = are_finite(seen.around["end"]) or fault.stays
    if at is None:
        note = "" if first(refused) is None else f"refused step {first(refused)}, which is finite"
        return Verdict(arm, family, mode, fault, False, bool(note), True, is_finite, moved, note=note)
    is_caught = first(refused) == at
    overflowed = risen(seen.overflows)[at]
    places = differing(seen.around["before"], seen.around["after"], scales if overflowed else ())
    note = "" if is_caught else f"not finite in step {at}, refused in step {first(refused)}"
    if not note and places:
        note = f"step {at} has left something: " + ", ".join(names[place] for place in places[:3])
    if not note and not math.isfinite(seen.losses[at]) and mode.startswith("fit") and not fault.stays:
        note = f"the logs of step {at} hold {seen.losses[at]}"
    if not note and at == fault.step and not fault.stays and not overflowed:
        # A fault that has gone with its batch: the run must be the one that never saw the batch.
        places = differing(seen.around["end"], references[at].around["end"])
        if places:
            note = "the end is not that of a run without the batch: " + ", ".join(names[p] for p in places[:3])
    if not note and fault.target in INTO_STATE and fault.label != "1e30":
        # A fault that stays: nothing further is written, in any later step.
        if not all(refused[at:]):
            note = "a later step went ahead on a state that is not finite"
        elif differing(seen.around["after"], seen.around["end"], scales):
            note = "a later step has left something"
    return Verdict(arm, family, mode, fault, True, is_caught, not places, is_finite, moved, note=note)
