"""Puts numbers that are not finite into trainings, and counts what is caught and what stays clean; see docs/faults.md.

python -m faults [--short] [--only GLOB] [--processes N] [--markdown docs/faults.md]
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

from benchmarks.pages import conditions, count, write_section
from faults import tables
from faults.campaign import collect, tasks

SECTION = "faults"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign; gives 0 if every fault was caught, all is clean, and nothing was a false alarm, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--short", action="store_true", help="about 60 faults, in a minute")
    parser.add_argument("--only", action="append", metavar="GLOB", help="work by its title, such as 'faults: lstm*'")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N", help="at the same time")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="rewrite the tables between this page's markers")
    options = parser.parse_args(arguments)
    given = tasks(is_short=options.short, only=options.only or ["*"])
    if not given:
        parser.error(f"nothing has such a title: {', '.join(options.only)}. Without --only all is run.")
    started_at = time.perf_counter()
    found = collect(given, options.processes)
    kind = "the short run" if options.short else "the full run"
    seconds = time.perf_counter() - started_at
    text = "\n".join([conditions(f"{kind}, {seconds:.0f} s"), *tables.page(found)])
    print(text)
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text)
    misses = found.misses()
    print(f"\n{count(len(found.ours), 'fault')}, {count(len(misses), 'bar')} missed.")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
