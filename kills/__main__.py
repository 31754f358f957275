"""Kills trainings at random moments, resumes them, and compares every bit; see docs/kills.md.

python -m kills [--short] [--count N] [--seed N] [--markdown docs/kills.md]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from benchmarks.pages import write_section
from kills import campaign, faults

SECTION = "kills"
SHORT, FULL = 12, 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the kills; gives 0 if every resume was exact and no file torn, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m kills", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--short", action="store_true", help=f"{SHORT} kills instead of {FULL}")
    parser.add_argument("--count", type=int, metavar="N", help="so many kills")
    parser.add_argument("--seed", type=int, default=4, metavar="N", help="of the choice of moments")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="rewrite the table between this page's markers")
    options = parser.parse_args(arguments)
    count = options.count or (SHORT if options.short else FULL)
    started_at = time.perf_counter()
    result = campaign.run(count, options.seed, lambda line: print(line, file=sys.stderr))
    text = table(result, time.perf_counter() - started_at)
    print(text)
    for problem in result.problems:
        print(f"\n{problem}")
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text)
    return 0 if is_clean(result) else 1


def is_clean(result: campaign.Result) -> bool:
    """Whether every resume was exact and nothing torn."""
    counts = result.counts.values()
    return not result.problems and all(found.exact == found.kills and not found.torn for found in counts)


def table(result: campaign.Result, seconds: float) -> str:
    """The counts by place, as Markdown."""
    lines = ["| killed | kills | resumed exactly | torn files |", "|---|---:|---:|---:|"]
    order = (faults.TRAINING, *faults.SAVING, faults.QUARANTINING)
    for place in (place for place in order if place in result.counts):
        found = result.counts[place]
        lines.append(f"| {place} | {found.kills} | {found.exact} | {found.torn} |")
    every = result.counts.values()
    kills, exact, torn = (sum(getattr(found, key) for found in every) for key in ("kills", "exact", "torn"))
    lines.append(f"| **all** | **{kills}** | **{exact}** | **{torn}** |")
    lines += ["", f"{result.processes} processes in {seconds:.0f} seconds."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
