"""Writes the figures as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.pages import table
from nanguard.intervals import FLOAT_FORMATS
from verification import losses, ops
from verification.exceptions import Miss
from verification.losses import LossFigures
from verification.ops import OpFigures
from verification.sweep import Failure, Tally


def op_table(figures: Sequence[OpFigures]) -> list[str]:
    """Gives the lines of the table of ops and their peers, in graph mode."""
    head = ["op", "", "inputs", "value not finite", "gradient not finite", "its square not finite"]
    head += [f"ulp {dtype}" for dtype in FLOAT_FORMATS] + ["flushed", "clamped"]
    rows = []
    for op in figures:
        for arm in op.arms:
            total = op.total(arm, mode="graph")
            if total is None:
                continue
            by_dtype = [op.total(arm, mode="graph", dtype=dtype) for dtype in FLOAT_FORMATS]
            counts = [total.inputs, total.value, total.gradient, total.square]
            ulps = [ulp_text(tally) for tally in by_dtype]
            rows.append(
                [
                    *_titles(op.name, arm, ops.OURS),
                    *map(count_text, counts),
                    *ulps,
                    count_text(total.flushed),
                    count_text(total.clamped) if arm == ops.OURS else "",
                ]
            )
    return table(head, rows, texts=2)


def mode_table(figures: Sequence[OpFigures], modes: Sequence[str]) -> list[str]:
    """Gives the lines of the table of ours in each mode: the three counts, and the largest error in ulp."""
    head = ["op", *[title for mode in modes for title in (f"{mode}: inputs", "not finite", "ulp")]]
    rows = []
    for op in figures:
        row = [op.name]
        for mode in modes:
            total = op.total(ops.OURS, mode=mode) or Tally()
            counts = " / ".join(count_text(number) for number in (total.value, total.gradient, total.square))
            row += [count_text(total.inputs), counts, ulp_text(total)]
        rows.append(row)
    return table(head, rows, texts=1)


def loss_table(figures: Sequence[LossFigures], dtypes: Sequence[str]) -> list[str]:
    """Gives the lines of the table of losses and Keras's, in graph mode."""
    head = ["loss", "", "rows", "value not finite", "gradient not finite", "gradient 0 on a wrong prediction"]
    head += [f"ulp {dtype}" for dtype in dtypes] + ["farther from the truth than the other", "clamped"]
    rows = []
    for loss in figures:
        for arm in loss.arms:
            by_dtype = [loss.of(arm, dtype=dtype, mode="graph") for dtype in dtypes]
            total = Tally()
            for tally in by_dtype:
                total.merge(tally or Tally())
            counts = [total.inputs, total.value, total.gradient, total.zero]
            ulps = [ulp_text(tally) for tally in by_dtype]
            farther = count_text(total.farther) if len(loss.arms) > 1 and total.judged else ""
            rows.append(
                [
                    *_titles(loss.title, arm, losses.OURS),
                    *map(count_text, counts),
                    *ulps,
                    farther,
                    count_text(total.clamped) if farther else "",
                ]
            )
    return table(head, rows, texts=2)


def kernel_lines(figures: Sequence[OpFigures]) -> list[str]:
    """Says how near the float64 formulas are to mpmath."""
    known = [(op.kernel_error, op.name) for op in figures if op.kernel_error is not None]
    if not known:
        return []
    worst, name = max(known)
    text = "exact" if worst == 0 else f"2^{math.log2(worst):.1f}"
    judges = "The float64 formulas that judge half precision and float32"
    return [f"{judges} are within {text} of mpmath ({name} is the farthest)."]


def miss_lines(misses: Sequence[Miss]) -> list[str]:
    """Gives a list of what is beyond its bar, the subjects of one reason together."""
    lines = []
    for is_fault, why in sorted({_reason(miss) for miss in misses}, reverse=True):
        lines += [f"**{why}**" if is_fault else f"Known: {why}.", ""]
        same = [miss for miss in misses if _reason(miss) == (is_fault, why)]
        for subject in dict.fromkeys(miss.subject for miss in same):
            lines.append(f"- {subject}: {'; '.join(str(miss) for miss in same if miss.subject == subject)}")
        lines.append("")
    return lines[:-1]


def failure_lines(subject: str, failures: Sequence[Failure]) -> list[str]:
    """Says what could not be run, in a sentence for each arm."""
    lines = []
    for arm in dict.fromkeys(failure.arm for failure in failures):
        own = [failure for failure in failures if failure.arm == arm]
        where = ", ".join(dict.fromkeys(f"{failure.dtype} {failure.mode}" for failure in own))
        lines.append(f"{subject}: `{arm}` did not run in {where}. {own[0].message}")
    return lines


def _reason(miss: Miss) -> tuple[bool, str]:
    if miss.is_fault:
        return True, "Faults: not known, or worse than is known"
    return False, miss.known.why if miss.known else ""


def count_text(number: int) -> str:
    """Writes a count."""
    return f"{number:,}"


def ulp_text(tally: Tally | None) -> str:
    """Writes the largest error, and nothing where none was measured."""
    if tally is None or tally.ulp is None:
        return ""
    return f"{tally.ulp:.2f}" if tally.ulp < 1e4 else f"{tally.ulp:.1e}"


def _titles(subject: str, arm: str, ours: str) -> tuple[str, str]:
    return (f"**{subject}**", "nanguard") if arm == ours else ("", f"`{arm}`")
