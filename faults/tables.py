"""What a campaign found, as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.pages import count, table
from faults import peers
from faults.flips import TARGETS as FLIPPED
from faults.flips import Flip
from faults.healthy import Healthy
from faults.judge import Verdict
from faults.runs import LABELS, PLACES
from faults.runs import TARGETS as TARGETS

CLOSE = 0.05  # a final loss within this of the clean run's


@dataclass
class Found:
    """All that a campaign found."""

    ours: list[Verdict] = field(default_factory=list)
    restored: list[Verdict] = field(default_factory=list)
    peers: list[Verdict] = field(default_factory=list)
    flips: list[Flip] = field(default_factory=list)
    healthy: list[Healthy] = field(default_factory=list)

    def misses(self) -> list[str]:
        """Every bar that was missed, in a line."""
        lines = [
            f"{v.family}, {v.mode}: {v.fault.label} into {v.fault.target} at step {v.fault.step}: {v.note}"
            for v in (*self.ours, *self.restored)
            if v.is_miss
        ]
        lines += [
            f"{f.family}: bit {f.bit} of {f.target} flipped: final loss {f.guarded:+.3g} of the clean one"
            for f in self.flips
            if f.is_miss
        ]
        lines += [
            f"{h.family}: {count(h.refused, 'false alarm')} in {h.steps} healthy steps"
            for h in self.healthy
            if h.refused or not h.is_finite
        ]
        return lines


def page(found: Found) -> list[str]:
    """All tables that there is something for."""
    lines: list[str] = []
    if found.ours:
        lines += ["", "### Caught, and clean", "", *_by("what the number was put into", found.ours, TARGETS, _target)]
        lines += ["", *_by("number", found.ours, LABELS, lambda v: v.fault.label)]
        lines += ["", *_by("step", found.ours, PLACES, _place)]
        lines += ["", *_by("model", found.ours, _distinct(v.family for v in found.ours), lambda v: v.family)]
        lines += ["", *_by("training", found.ours, sorted(_distinct(v.mode for v in found.ours)), lambda v: v.mode)]
        lines += ["", *_finite(found.ours)]
    if found.restored:
        lines += ["", '### State that went bad between two steps, with `on_nonfinite="rollback"`', ""]
        lines += _restored(found.restored)
    if found.flips:
        lines += ["", '### Flipped bits of the exponent, with `on_nonfinite="rollback"`', "", *_flips(found.flips)]
    if found.peers:
        lines += ["", "### Beside others", "", *_peers(found.peers)]
    if found.healthy:
        lines += ["", "### False alarms", "", *_healthy(found.healthy)]
    if misses := found.misses():
        lines += ["", "### Missed", "", *(f"- {line}" for line in misses)]
    return lines


def _target(verdict: Verdict) -> str:
    return verdict.fault.target


def _place(verdict: Verdict) -> str:
    return next(name for name, step in PLACES.items() if step == verdict.fault.step)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _by(head: str, verdicts: Sequence[Verdict], keys: Iterable[str], key: Callable[[Verdict], str]) -> list[str]:
    rows = [_row(name, [v for v in verdicts if key(v) == name]) for name in keys]
    if len(rows) > 1:
        rows.append(_row("**all**", verdicts))
    return table([head, "faults", "not finite", "caught", "clean", "final loss, median", "worst"], rows, texts=1)


def _row(name: str, verdicts: Sequence[Verdict]) -> list[str]:
    bad = [v for v in verdicts if v.is_nonfinite]
    changes = [abs(v.change) for v in bad if not v.fault.stays and v.fault.label != "1e30"]
    losses = [_percent(statistics.median(changes)), _percent(max(changes))] if changes else ["", ""]
    numbers = (len(verdicts), len(bad), sum(v.is_caught for v in bad), sum(v.is_clean for v in bad))
    return [name, *(f"{number:,}" for number in numbers), *losses]


def _percent(number: float) -> str:
    return f"{100 * number:.2g} %" if number < 10 else f"{number:.1e} times" if math.isfinite(number) else "not finite"


def _finite(verdicts: Sequence[Verdict]) -> list[str]:
    harmless = [v for v in verdicts if not v.is_nonfinite]
    refused = sum(v.is_caught for v in harmless)
    huge = [v for v in harmless if v.fault.label == "1e30"]
    moved = sum(abs(v.change) > CLOSE for v in huge)
    return [
        f"{len(harmless):,} of the {len(verdicts):,} faults made nothing non-finite: {len(huge):,} of 1e30, and "
        f"{len(harmless) - len(huge):,} that the model itself swallowed. {refused} of these steps were refused. "
        f"After {moved:,} of those of 1e30 the final loss was more than {100 * CLOSE:.0f} % off."
    ]


def _restored(verdicts: Sequence[Verdict]) -> list[str]:
    rows = []
    for name in [target for target in TARGETS if any(v.fault.target == target for v in verdicts)]:
        these = [v for v in verdicts if v.fault.target == name]
        numbers = (len(these), sum(v.is_caught for v in these), sum(bool(v.is_restored) for v in these))
        rows.append([name, *map(str, numbers)])
    return table(
        ["what the number was put into", "faults", "caught", "ended as without the fault, bit for bit"], rows, texts=1
    )


def _flips(flips: Sequence[Flip]) -> list[str]:
    rows = []
    for target in FLIPPED:
        for is_bad in (True, False):
            these = [f for f in flips if f.target == target and f.is_nonfinite == is_bad]
            if not these:
                continue
            off = [sum(not abs(getattr(f, arm)) <= CLOSE for f in these) for arm in ("plain", "guarded")]
            worst = [max(abs(getattr(f, arm)) for f in these) for arm in ("plain", "guarded")]
            rows.append(
                [
                    target, "not finite" if is_bad else "finite", str(len(these)),
                    str(sum(f.is_refused for f in these)), str(sum(f.is_spike for f in these)), *map(str, off),
                    *map(_percent, worst),
                ]
            )  # fmt: skip
    off_by = f"loss off by {100 * CLOSE:.0f} %"
    head = [
        "flipped in", "without a guard", "flips", "refused", "gone back from as a spike", f"{off_by}, no guard",
        f"{off_by}, guard", "worst, no guard", "worst, guard",
    ]  # fmt: skip
    return table(head, rows, texts=2)


def _peers(verdicts: Sequence[Verdict]) -> list[str]:
    rows = []
    for arm in peers.PEERS:
        these = [v for v in verdicts if v.arm == arm]
        passing = [v for v in these if not v.fault.stays]
        numbers = (
            len(these), sum(v.is_caught for v in these), sum(v.is_clean for v in these), len(passing),
            sum(v.is_finite for v in passing), sum(abs(v.change) <= CLOSE for v in passing),
        )  # fmt: skip
        rows.append([arm if arm == peers.OURS else f"`{arm}`" if arm != peers.PLAIN else arm, *map(str, numbers)])
    head = [
        "", "faults, all not finite", "caught", "clean", "of these in a batch or a step", "all finite at the end",
        f"final loss within {100 * CLOSE:.0f} %",
    ]  # fmt: skip
    return table(head, rows, texts=1)


def _healthy(runs: Sequence[Healthy]) -> list[str]:
    rows = [[h.family, f"{h.steps:,}", str(h.refused), str(h.spikes)] for h in runs]
    total = (sum(h.steps for h in runs), sum(h.refused for h in runs), sum(h.spikes for h in runs))
    rows.append(["**all**", *(f"{number:,}" for number in total)])
    return table(["model", "healthy steps", "refused", "told of a spike or a climb"], rows, texts=1)
