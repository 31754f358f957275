"""Flipped bits of the exponent, and state gone bad, under a guard that rolls back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from faults import judge
from faults.families import STEPS, build
from faults.judge import Verdict
from faults.ours import counts_of, new_guard
from faults.runs import INTO_STATE, Bench, Fault, Fit, Loop, Plan

STRETCH = 16  # steps of a run
WARM = 6  # runs before the first fault: by then the detector knows what is usual
BITS = range(23, 31)
TARGETS = ("weights", "activations", "gradients")


@dataclass(frozen=True)
class Flip:
    """One flipped bit.

    Args:
        family: The family's name.
        target: `weights`, `activations` or `gradients`.
        bit: Which; 30 is the highest of the exponent.
        is_nonfinite: Whether something turned non-finite without a guard.
        is_refused: Whether the guard refused a step.
        is_spike: Whether it went back because of a spike.
        plain: Final loss without a guard over that of the run without a fault, less 1.
        guarded: The same with the guard.
    """

    family: str
    target: str
    bit: int
    is_nonfinite: bool
    is_refused: bool
    is_spike: bool
    plain: float
    guarded: float

    @property
    def is_miss(self) -> bool:
        """Whether something turned non-finite and the guard did nothing, or did not keep the model finite."""
        return (self.is_nonfinite and not (self.is_refused or self.is_spike)) or not math.isfinite(self.guarded)


def run(family_name: str, draws: int) -> tuple[list[Verdict], list[Flip]]:
    """Puts NaN and infinities into the state of one family, and flips bits.

    Args:
        family_name: A key of `FAMILIES`.
        draws: Flips of each bit in each target.
    """
    family = build(family_name, "float32")
    family.compile(jit=False)
    bench = Bench(family)
    order = tuple(number % STEPS for number in range(STRETCH))
    # At a backoff of 1 what is gone back from leaves no trace, and the bits can be compared.
    guard = new_guard(on_nonfinite="rollback", backoff=1.0, warmup=0, snapshot_every=8, max_rollbacks=1 << 30)
    runs = Fit(bench, guard, counts=counts_of(guard), restart=lambda: _start_anew(guard, known))
    runs.run([Plan(order)] * WARM, [None] * WARM, resets=False)
    bench.keep()
    known = guard.nanguard_state()
    go_back = guard._reactions.rollback.go_back

    def without_fault(*arguments: Any, **options: Any) -> Any:
        # A bit flips once: the steps that are made again are made without it.
        for tap in family.taps:
            tap.disarm()
        return go_back(*arguments, **options)

    guard._reactions.rollback.go_back = without_fault
    targets = [target for target in INTO_STATE if target != "BN statistics" or family.moving()]
    broken = [
        Fault(target, label, step, draw)
        for draw, (target, label, step) in enumerate(
            (target, label, step)
            for target in targets
            for label in ("NaN", "+Inf", "-Inf")
            for step in (3, STRETCH - 1)
        )
    ]
    flips = [
        Fault(target, f"bit {bit}", 2 + (11 * draw + bit) % (STRETCH - 4), 100 * draw + bit)
        for target in TARGETS for bit in BITS for draw in range(draws)
    ]  # fmt: skip
    plans = [Plan(order), *(Plan(order, fault) for fault in (*broken, *flips))]
    events: list[tuple[int, int]] = []

    def told() -> None:
        spikes = sum(event.reason != "nonfinite" for event in guard.events)
        events.append((len(guard.events) - spikes, spikes))
        guard.events.clear()

    clean, *seen = runs.run(plans, [None] * len(plans), told=told)
    bare = Loop(bench, family.step(), jit=False, looks=True)
    plain_clean, *plain = bare.run([plans[0], *plans[1 + len(broken) :]], [None] * (1 + len(flips)))
    names = [variable.path for variable in family.variables()]
    restored = [_restored(family_name, fault, each, clean, names) for fault, each in zip(broken, seen, strict=False)]
    told_of = events[1 + len(broken) :]
    return restored, [
        Flip(
            family_name, fault.target, fault.bit or 0, judge.first_bad(without) is not None, refused > 0, spikes > 0,
            judge.change(without.final, plain_clean.final), judge.change(each.final, clean.final),
        )
        for fault, each, without, (refused, spikes) in zip(flips, seen[len(broken) :], plain, told_of, strict=True)
    ]  # fmt: skip


def _start_anew(guard: Any, known: dict[str, Any]) -> None:
    skipped, overflows = counts_of(guard)()
    guard.restore_nanguard_state({**known, "num_skipped": skipped, "overflows": overflows})
    guard._reactions.rollback.snapshots.clear()


def _restored(family: str, fault: Fault, seen: Any, clean: Any, names: Sequence[str]) -> Verdict:
    is_caught = seen.skipped[fault.step] > 0
    places = judge.differing(seen.around["end"], clean.around["end"])
    note = "" if is_caught else "not refused"
    if not note and places:
        note = "not what it was: " + ", ".join(names[place] for place in places[:3])
    return Verdict(
        "nanguard", family, "fit with rollback, graph, float32", fault, True, is_caught, not places,
        judge.are_finite(seen.around["end"]), judge.change(seen.final, clean.final), not places, note,
    )  # fmt: skip
