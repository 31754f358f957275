"""Compares guarded training with plain training and with what Keras and TensorFlow offer; see docs/benchmarks.md.

python -m benchmarks.guard [--short] [--only GLOB] [--modes graph,xla] [--rounds N] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ops import ALLOCATOR, prepared_environment
from benchmarks.options import Options
from benchmarks.pages import Spread, conditions, count, table, verdict, write_section

ROOT = Path(__file__).parents[1]
SECTION = "guard"
PLAIN = "plain"
# What the ratio of the second plain one strays from 1 by is the error of the method.
AGAIN = "plain again"
SNAPSHOTS = "Guard with snapshots"
OURS_IN_FIT = ("Guard", SNAPSHOTS)
OURS_IN_LOOPS = ("GuardedOptimizer", "Guard.apply", "Guard.step")
PEERS = ("TerminateOnNaN", "LossScaleOptimizer", "global_clipnorm", "enable_check_numerics")

SNAPSHOT_BAR = 1.05
MEMORY_BAR = 1.1  # peak memory, in that of plain


@dataclass(frozen=True)
class Workload:
    """What is trained, and what it is measured by.

    Args:
        title: What is trained and how.
        kind: "fit" or "loop".
        name: Its name in `benchmarks.contenders`.
        steps: Training steps in a turn, so many that it takes more than 0.3 s.
        bar: Largest time per step that the guard may take, in that of plain.
    """

    title: str
    kind: str
    name: str
    steps: int
    bar: float

    def arms(self, mode: str) -> list[str]:
        """Gives all ways of training that are compared."""
        if self.kind == "loop":
            return [PLAIN, AGAIN, *OURS_IN_LOOPS, *PEERS[1:3]]
        # XLA compiles no graph that was marked by `enable_check_numerics`.
        return [PLAIN, AGAIN, *OURS_IN_FIT, *(PEERS if mode == "graph" else PEERS[:-1])]

    def bar_of(self, arm: str) -> float | None:
        """Gives the bar of an arm; None for those that are not ours."""
        if arm == SNAPSHOTS:
            return SNAPSHOT_BAR
        return self.bar if arm.startswith("Guard") else None


WORKLOADS = {
    "mlp": Workload("small MLP, `fit`", "fit", "mlp", steps=500, bar=1.02),
    "mobilenet": Workload("MobileNetV2 96x96, `fit`", "fit", "mobilenet", steps=4, bar=1.0),
    "lstm": Workload("LSTM, `fit`", "fit", "lstm", steps=120, bar=1.0),
    "transformer": Workload("Transformer, `fit`", "fit", "transformer", steps=40, bar=1.0),
    "mlp-loop": Workload("small MLP, `tf.function` loop", "loop", "mlp", steps=1000, bar=1.02),
    "cnn-loop": Workload("CNN, `tf.function` loop", "loop", "cnn", steps=150, bar=1.02),
}
SHORT = ("mlp", "mlp-loop")
SHORT_ARMS = (PLAIN, AGAIN, *OURS_IN_FIT, *OURS_IN_LOOPS)
MODES = ("graph", "xla")


@dataclass(frozen=True)
class Row:
    """How one arm compares with plain on one workload."""

    title: str
    mode: str
    arm: str
    milliseconds: float  # CPU time per step
    cpu: Spread
    wall: Spread
    first: float  # CPU time of the first step with its tracing, in seconds
    memory: float | None  # peak memory, in that of plain
    bar: float | None

    @property
    def is_fast(self) -> bool:
        """Whether the arm has no bar or its CPU time stays within it, in the median and to the digits of the bar."""
        return self.bar is None or round(self.cpu.median, 2) <= self.bar

    @property
    def is_small(self) -> bool:
        """The same of its peak memory."""
        return self.bar is None or round(self.memory or 0.0, 2) <= MEMORY_BAR


class WorkerError(Exception):
    """A process of contenders failed."""


def contend(workload: Workload, mode: str, arms: Sequence[str], *, steps: int, rounds: int) -> dict[str, Any]:
    """Runs the arms in one process, and gives its figures."""
    environment = prepared_environment()
    if len(arms) == 1:  # for its memory: with the allocator as it is for users
        environment = {name: value for name, value in environment.items() if name not in ALLOCATOR}
    command = [sys.executable, "-m", "benchmarks.contenders", workload.kind, workload.name, "--mode", mode]
    command += ["--arms", ",".join(arms), "--steps", str(steps), "--rounds", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-20:])
        raise WorkerError(f"exit code {done.returncode} from {' '.join(command)}\n{tail}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(workload: Workload, mode: str, *, arms: Sequence[str], rounds: int, with_memory: bool) -> list[Row]:
    """Trains one workload in all arms, taking turns in random order, and compares each with plain round by round."""
    result = contend(workload, mode, arms, steps=workload.steps, rounds=rounds)
    memory = {}
    if with_memory:
        for arm in (PLAIN, *(arm for arm in arms if arm.startswith("Guard"))):
            memory[arm] = contend(workload, mode, [arm], steps=workload.steps, rounds=2)["peak_memory"]
    figures, rows = result["figures"], []
    ratios = {
        arm: {
            clock: Spread.of([a / b for a, b in zip(figures[arm][clock], figures[PLAIN][clock], strict=True)])
            for clock in ("cpu", "wall")
        }
        for arm in arms
    }
    for arm in arms:
        rows.append(
            Row(
                title=workload.title,
                mode=mode,
                arm=arm,
                milliseconds=1e3 * statistics.median(figures[arm]["cpu"]),
                cpu=ratios[arm]["cpu"],
                wall=ratios[arm]["wall"],
                first=result["first"][arm],
                memory=memory[arm] / memory[PLAIN] if memory.get(arm) and memory.get(PLAIN) else None,
                bar=workload.bar_of(arm),
            )
        )
    return rows


def tables(rows: Sequence[Row], failed: Sequence[str]) -> str:
    """Writes the figures as Markdown."""
    head = (
        "workload", "mode", "arm", "CPU ms a step", "CPU time, plain = 1", "wall time, plain = 1", "memory, plain = 1",
        "first step, CPU s", "bar of CPU", "", "bar of memory", "",
    )  # fmt: skip
    cells = []
    for row in rows:
        spreads = ("1", "1") if row.arm == PLAIN else (str(row.cpu), str(row.wall))
        outcome: tuple[str, ...] = ("",) * 4
        if row.bar is not None:
            outcome = f"{row.bar:.2f}", verdict(row.is_fast), f"{MEMORY_BAR:.2f}", verdict(row.is_small)
        memory = "" if row.memory is None else f"{row.memory:.2f}"
        name = f"`{row.arm}`" if row.arm in PEERS else row.arm
        numbers = (f"{row.milliseconds:.2f}", *spreads, memory, f"{row.first:.2f}")
        cells.append((row.title, row.mode, name, *numbers, *outcome))
    return "\n".join([*table(head, cells, texts=3), *(f"\n{line}" for line in failed)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; gives 0 if every bar was met, 1 if one was missed, 2 if something could not be run."""
    parser = Options("benchmarks.guard", __doc__, short=" and ".join(SHORT), rounds=(15, 3))
    parser.add_argument("--modes", default=None, help=f"comma-separated, of: {', '.join(MODES)}")
    options = parser.parse(arguments)
    rounds = options.rounds
    modes = parser.listed("mode", options.modes or (MODES[0] if options.short else ",".join(MODES)), MODES)
    names = parser.matching(options.only or (SHORT if options.short else ("*",)), WORKLOADS)

    rows: list[Row] = []
    failed: list[str] = []
    for name in names:
        for mode in modes:
            workload = WORKLOADS[name]
            print(f"{workload.title}, {mode} ...", file=sys.stderr, flush=True)
            arms = [arm for arm in workload.arms(mode) if not options.short or arm in SHORT_ARMS]
            try:
                rows += compare(workload, mode, arms=arms, rounds=rounds, with_memory=not options.short)
            except WorkerError as error:
                print(error, file=sys.stderr)
                failed.append(f"{workload.title} did not run in {mode}.")

    details = f"{count(1, 'thread')} in each of TensorFlow's pools", count(rounds, "round")
    text = f"{conditions(*details)}\n\n{tables(rows, failed)}"
    print(text)
    if options.markdown:
        write_section(options.markdown, SECTION, text)
    if failed:
        return 2
    return 0 if options.short or all(row.is_fast and row.is_small for row in rows) else 1


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
