"""The guard under faults: one family in one dtype, compiled by XLA or not, in a loop of one's own and in `fit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nanguard
from faults import judge
from faults.families import STEPS, Family, build
from faults.judge import Verdict
from faults.runs import PLACES, Bench, Fault, Fit, Loop, Plan, faults_of

LOOPS = ("step", "apply", "optimizer")


@dataclass(frozen=True)
class Setting:
    """One training.

    Args:
        family: A key of `FAMILIES`.
        dtype: `float32` or `mixed_float16`.
        jit: Whether XLA compiles it.
        loop: Which way of a custom loop: one of `LOOPS`.
        styles: `fit`, `loop` or both.
        every: Takes every so many faults.
        explains: Whether the guard of `fit` runs each refused step again and explains it, as it does by default.
    """

    family: str
    dtype: str = "float32"
    jit: bool = False
    loop: str = "step"
    styles: tuple[str, ...] = ("fit", "loop")
    every: int = 1
    explains: bool = False

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return f"{self.family}, {'XLA' if self.jit else 'graph'}, {self.dtype}{', explained' if self.explains else ''}"


def new_guard(model: Any = None, optimizer: Any = None, **options: Any) -> Any:
    """A guard that says and keeps nothing."""
    return nanguard.Guard(model, optimizer, **{"quarantine": None, "num_explained": 0, "verbose": False, **options})


def counts_of(guard: Any) -> Any:
    """Gives a function that gives the steps that a guard has refused, and those that overflowed."""

    # Private: under XLA a guard is told of nothing in a loop of one's own, and its counters are in the graph.
    def counts() -> tuple[int, int]:
        ledger = guard._updater.counters()
        return int(ledger.skipped.numpy()), int(ledger.overflows.numpy())

    return counts


def start_anew(guard: Any) -> None:
    """Lets a guard know nothing of the steps that it refused in a row."""
    reactions = getattr(guard, "_reactions", None)  # a GuardedOptimizer has none
    if reactions is not None:
        reactions.in_row = 0
    guard._updater.counters().last.assign(-1)


def overflows_of(family: Family) -> Any:
    """Counts the steps that the loss scale optimizers of an unguarded training have skipped."""
    scaled = [each for each in family.optimizers if hasattr(each, "dynamic_scale")]
    starts = [float(each.initial_scale) for each in scaled]

    def counts() -> tuple[int, int]:
        pairs = zip(scaled, starts, strict=True)
        return 0, sum(round(math.log2(start / float(each.dynamic_scale.numpy()))) for each, start in pairs)

    return counts


def plans_without() -> dict[int, Plan]:
    """For each place of a fault: a run that never sees its batch."""
    return {step: Plan(tuple(n for n in range(STEPS) if n != step)) for step in PLACES.values()}


def run(setting: Setting) -> list[Verdict]:
    """Puts every fault into a training."""
    family = build(setting.family, setting.dtype)
    family.compile(jit=setting.jit)
    bench = Bench(family)
    faults = faults_of(family)[:: setting.every]
    everything = tuple(range(STEPS))
    plans = [Plan(everything), *(Plan(everything, fault) for fault in faults)]
    bare = Loop(bench, family.step(), jit=setting.jit, counts=overflows_of(family), looks=True)
    truth = [judge.first_bad(seen) for seen in bare.run(plans, [None] * len(plans))]
    if truth[0] is not None:
        raise RuntimeError(f"{setting.title}: the run without a fault is not finite in step {truth[0]}")
    found: list[Verdict] = []
    if "loop" in setting.styles:
        found += _in_loop(setting, bench, plans, truth)
    if "fit" in setting.styles:
        found += _in_fit(setting, bench, plans, truth)
    return found


def _in_loop(setting: Setting, bench: Bench, plans: Sequence[Plan], truth: Sequence[int | None]) -> list[Verdict]:
    family = bench.family
    loop = "step" if setting.family == "GAN" else setting.loop
    if loop == "optimizer":
        guard: Any = nanguard.GuardedOptimizer(family.optimizer, max_in_row=1 << 30, verbose=False)
        guard.build(family.model.trainable_variables)
        step = family.step(optimizer=guard)
    elif loop == "apply":
        guard = new_guard(family.model, family.optimizer)
        step = family.step(lambda gradients, weights, loss: guard.apply(gradients, weights, loss=loss))
    else:
        guard = new_guard(family.model, family.optimizer)
        step = guard.step(family.step())

    runs = Loop(bench, step, jit=setting.jit, counts=counts_of(guard), restart=lambda: start_anew(guard))
    without = plans_without()
    references = dict(zip(without, runs.run(list(without.values()), [None] * len(without)), strict=True))
    clean, *seen = runs.run(plans, truth)
    return _judged(setting, f"loop ({loop})", bench, plans[1:], truth[1:], seen, clean, references)


def _in_fit(setting: Setting, bench: Bench, plans: Sequence[Plan], truth: Sequence[int | None]) -> list[Verdict]:
    guard = new_guard(num_explained=1 << 30 if setting.explains else 0)
    runs = Fit(bench, guard, counts=counts_of(guard), restart=lambda: start_anew(guard))
    without = plans_without()
    references = dict(zip(without, runs.run(list(without.values()), [None] * len(without)), strict=True))
    clean, *seen = runs.run(plans, truth)
    style = "fit, explained" if setting.explains else "fit"
    return _judged(setting, style, bench, plans[1:], truth[1:], seen, clean, references)


def _judged(
    setting: Setting, style: str, bench: Bench, plans: Sequence[Plan], truth: Sequence[int | None],
    seen: Sequence[Any], clean: Any, references: dict[int, Any],
) -> list[Verdict]:  # fmt: skip
    variables = bench.family.variables()
    own = bench.family.scales()
    scales = [place for place, variable in enumerate(variables) if id(variable) in own]
    names = [variable.path for variable in variables]
    mode = f"{style}, {'XLA' if setting.jit else 'graph'}, {setting.dtype}"
    faults: list[Fault] = [plan.fault for plan in plans if plan.fault is not None]
    return [
        judge.of_guard(
            "nanguard", setting.family, mode, fault, at, each, references=references, clean=clean, scales=scales,
            names=names,
        )
        for fault, at, each in zip(faults, truth, seen, strict=True)
    ]  # fmt: skip
