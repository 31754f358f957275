"""Compares the cleaning of a Parquet file with that of Polars, DuckDB and scikit-learn; see docs/benchmarks.md.

python -m benchmarks.cleaning [--short] [--only GLOB] [--rounds N] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cleaners import CONTENDERS, make
from benchmarks.options import Options
from benchmarks.pages import conditions, count, table, verdict, write_section

ROOT = Path(__file__).parents[1]
SECTION = "cleaning"
OURS = "nanguard"
MEMORY_BAR = 300e6  # bytes
# Sizes at which the time of a row is compared, and by how much it may grow from the first to the last.
SIZES = (2_000_000, 10_000_000, 50_000_000)
SHORT_ROWS = 100_000
GROWTH_BAR = 1.1


def run(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Runs one contender in a process of its own."""
    outputs = [folder / "clean.parquet", folder / "bad.parquet"]
    for output in outputs:
        output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.cleaners", name, str(data), *map(str, outputs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(names: Sequence[str], data: Path, folder: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Runs all contenders in turns, in another order each round."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in random.Random(turn).sample(list(names), len(names)):
            found[name].append(run(name, data, folder))
    return found


def spread(runs: Sequence[dict[str, Any]], key: str) -> str:
    """The median and the range of a figure."""
    values = [each[key] for each in runs]
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def comparison(found: dict[str, list[dict[str, Any]]]) -> tuple[list[str], bool]:
    """The table of all contenders, and whether ours meets its bars."""
    cpu = {name: statistics.median(run["cpu"] for run in runs) for name, runs in found.items()}
    peaks = {name: max(run["peak"] for run in runs) for name, runs in found.items()}
    others = [value for name, value in cpu.items() if not name.startswith(OURS)]
    rows = [
        (name, spread(runs, "cpu"), spread(runs, "wall"), f"{peaks[name] / 1e6:.0f}")
        for name, runs in found.items()
    ]  # fmt: skip
    lines = table(("", "CPU s", "wall s", "peak MB"), rows, texts=1)
    if OURS not in cpu or not others:
        return lines, True
    is_fast, is_small = cpu[OURS] <= min(others), peaks[OURS] <= MEMORY_BAR
    lines += [
        "",
        f"CPU time in that of the fastest other: {cpu[OURS] / min(others):.2f}, bar 1.00: {verdict(is_fast)}. "
        f"Peak memory {peaks[OURS] / 1e6:.0f} MB, bar {MEMORY_BAR / 1e6:.0f}: {verdict(is_small)}.",
    ]
    return lines, is_fast and is_small


def growth(sizes: Sequence[int], folder: Path) -> tuple[list[str], bool]:
    """The time of a row at several sizes, and whether it stays the same."""
    rows, costs = [], []
    for size in sizes:
        data = folder / f"{size}.parquet"
        make(data, size)
        found = run(OURS, data, folder)
        costs.append(found["cpu"] / size)
        rows.append((f"{size:,}", f"{found['cpu']:.1f}", f"{1e6 * costs[-1]:.2f}", f"{found['peak'] / 1e6:.0f}"))
        data.unlink()
    is_linear = costs[-1] <= GROWTH_BAR * costs[0]
    lines = table(("rows", "CPU s", "CPU microseconds a row", "peak MB"), rows, texts=0)
    ratio = costs[-1] / costs[0]
    return [
        *lines,
        "",
        f"A row of the last in one of the first: {ratio:.2f}, bar {GROWTH_BAR}: {verdict(is_linear)}.",
    ], is_linear


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; gives 0 if every bar was met, 1 if one was missed, 2 if something could not be run."""
    parser = Options("benchmarks.cleaning", __doc__, short="100,000 rows", rounds=(5, 2))
    options = parser.parse(arguments)
    names = parser.matching(options.only or ("*",), CONTENDERS)
    num_rows = SHORT_ROWS if options.short else SIZES[0]
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder, "data.parquet")
            make(data, num_rows)
            lines, is_met = comparison(compare(names, data, Path(folder), options.rounds))
            if not options.short and not options.only:
                more, is_linear = growth(SIZES, Path(folder))
                lines, is_met = [*lines, "", *more], is_met and is_linear
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    text = "\n".join([conditions(f"{num_rows:,} rows of 20 columns", count(options.rounds, "round")), "", *lines])
    print(text)
    if options.markdown:
        write_section(options.markdown, SECTION, text)
    return 0 if options.short or is_met else 1


if __name__ == "__main__":
    sys.exit(main())
