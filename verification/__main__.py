"""Tries every op and every loss on the numbers that break them, beside their peers; see docs/verification.md.

python -m verification [--short] [--only GLOB] [--markdown docs/verification.md]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf

from benchmarks.pages import conditions, count, write_section
from nanguard.ops._operation import OPS
from verification import kinds, losses, ops, row_truth, tables
from verification.exceptions import Miss, misses
from verification.losses import LossFigures
from verification.ops import FULL, SHORT, OpFigures
from verification.truth import KERNEL_BAR

SECTION = "verification"
OP_COLUMNS = ("value", "gradient", "square", "ulp")
# The square of a loss's gradient is the sample's own: an error of 1e30 has a slope of 1e30 by rights.
LOSS_COLUMNS = ("value", "gradient", "zero", "farther", "ulp")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures; gives 0 if every figure of ours is within its bar or known, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m verification", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--short", action="store_true", help="half precision, special numbers and float32 losses, in graphs"
    )
    parser.add_argument("--only", action="append", metavar="GLOB", help="ops and losses by name, such as 'log*'")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="rewrite the tables between this page's markers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, by dtype and mode")
    options = parser.parse_args(arguments)

    # Each function is traced once for each op, dtype and mode, which TensorFlow takes for a mistake; Keras overflows as
    # it makes its constants in float16.
    tf.get_logger().setLevel("ERROR")
    warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
    effort = SHORT if options.short else FULL
    patterns = options.only or ["*"]
    started_at = time.perf_counter()
    op_figures = [_measured_op(name, effort) for name in sorted(OPS) if _matches(name, patterns)]
    loss_figures, unfed = [], []
    for name in kinds.loss_names():
        if not _matches(name, patterns):
            continue
        if name not in kinds.KINDS:
            unfed.append(name)
            continue
        for variant in kinds.variants(name):
            _say(variant.title)
            loss_figures.append(losses.measure(variant, dtypes=effort.losses, modes=effort.modes))
    seconds = time.perf_counter() - started_at

    found = [miss for op in op_figures for miss in misses(op.name, op.tallies, ours=ops.OURS, columns=OP_COLUMNS)]
    found += [
        miss
        for loss in loss_figures
        for miss in misses(loss.title, loss.tallies, ours=losses.OURS, columns=LOSS_COLUMNS)
    ]
    gaps = _gaps(op_figures, loss_figures, unfed)
    imprecise = [op.name for op in op_figures if (op.kernel_error or 0) > KERNEL_BAR]
    is_short = "the short run" if options.short else "the full run"
    text = "\n".join(
        [
            conditions(f"{is_short}, {seconds:.0f} s"),
            *_sections(op_figures, loss_figures, found, gaps, effort),
        ]
    )
    print(text)
    if options.markdown:
        write_section(options.markdown, SECTION, text)
    if options.json:
        options.json.write_text(json.dumps(_as_json(op_figures, loss_figures), indent=1), "utf-8")
    faults = [miss for miss in found if miss.is_fault]
    failures = [failure for op in op_figures for failure in op.failures]
    failures += [failure for loss in loss_figures for failure in loss.failures]
    broken = [failure for failure in failures if failure.arm == ops.OURS]
    print()
    for name in imprecise:
        print(f"FAULT the float64 formula of {name} is too far from mpmath to judge float32.")
    print(_verdict(len(op_figures), len(loss_figures), faults, len(broken) + len(imprecise)))
    return 1 if faults or broken or imprecise else 0


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _measured_op(name: str, effort: ops.Effort) -> OpFigures:
    _say(name)
    return ops.measure(name, effort)


def _say(name: str) -> None:
    print(f"{name} ...", file=sys.stderr, flush=True)


def _sections(
    op_figures: Sequence[OpFigures],
    loss_figures: Sequence[LossFigures],
    found: Sequence[Miss],
    gaps: Sequence[str],
    effort: ops.Effort,
) -> list[str]:
    lines: list[str] = []
    if op_figures:
        lines += ["", "### Ops, in graphs", "", *tables.op_table(op_figures), "", *tables.kernel_lines(op_figures)]
        if len(effort.modes) > 1:
            lines += ["", "### nanguard's ops in each mode", "", *tables.mode_table(op_figures, effort.modes)]
    if loss_figures:
        lines += ["", "### Losses, in graphs", "", *tables.loss_table(loss_figures, effort.losses)]
    if found:
        lines += ["", "### Beyond 0, 0, 0 and 2 ulp", "", *tables.miss_lines(found)]
    if gaps:
        lines += ["", "### Not measured", "", *[f"- {gap}" for gap in gaps]]
    return lines


def _gaps(op_figures: Sequence[OpFigures], loss_figures: Sequence[LossFigures], unfed: Sequence[str]) -> list[str]:
    gaps = [gap for op in op_figures for gap in tables.failure_lines(op.name, op.failures)]
    gaps += [gap for loss in loss_figures for gap in tables.failure_lines(loss.title, loss.failures)]
    if without := [op.name for op in op_figures if op.kernel_error is None and op.name not in row_truth.KERNELS]:
        gaps.append(f"ulp, for there is no formula to hold them against: {', '.join(without)}")
    if unfed:
        gaps.append(f"losses that `verification/kinds.py` does not say how to feed: {', '.join(unfed)}")
    return gaps


def _as_json(op_figures: Sequence[OpFigures], loss_figures: Sequence[LossFigures]) -> list[dict[str, Any]]:
    return [
        {"subject": subject, "arm": arm, "dtype": dtype, "mode": mode, **asdict(tally)}
        for subject, tallies in (
            *((op.name, op.tallies) for op in op_figures),
            *((loss.title, loss.tallies) for loss in loss_figures),
        )
        for (arm, dtype, mode), tally in tallies.items()
    ]


def _verdict(num_ops: int, num_losses: int, faults: Sequence[Miss], num_broken: int) -> str:
    tried = f"Tried {count(num_ops, 'op')} and {num_losses} kinds of loss."
    if not faults and not num_broken:
        return f"{tried} All within 0, 0, 0 and 2 ulp, or known."
    subjects = sorted({miss.subject for miss in faults})
    return f"{tried} Found {count(len(faults) + num_broken, 'fault')}: {', '.join(subjects) or 'see above'}."


if __name__ == "__main__":
    sys.exit(main())
