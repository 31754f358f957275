"""Compares plain training, `nanguard run` and `enable_check_numerics`; see docs/benchmarks.md.

python -m benchmarks.overhead [--short] [--only GLOB] [--rounds N] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.options import Options
from benchmarks.pages import Spread, conditions, count, table_row, verdict, write_section

ROOT = Path(__file__).parents[1]
SCRIPT = "benchmarks/workloads.py"
SECTION = "overhead"

PLAIN = "plain"
# A second plain process in the same rounds: what its ratio strays from 1 by is the error of the method.
ARMS = (PLAIN, "plain again", "nanguard", "check_numerics")
WARM_UP_ROUNDS = 2

START_BAR = 0.8  # seconds added to the start of a script
INCIDENT_BAR = 15.0  # seconds from the bad step to the printed report
MEMORY_BAR = 1.1  # peak memory, in that of plain


@dataclass(frozen=True)
class Workload:
    """One training script and what it is measured by.

    Args:
        title: What is trained and how.
        steps: Training steps in a segment, so many that it takes about 0.4 s.
        bar: Largest time per step that `nanguard run` may take, in that of plain.
        check_numerics_steps: The same as `steps`, where `enable_check_numerics` is slower by ten times and more.
    """

    title: str
    steps: int
    bar: float = 1.05
    check_numerics_steps: int | None = None

    def steps_of(self, arm: str) -> int:
        """Gives the steps in a segment of one arm."""
        return self.check_numerics_steps or self.steps if arm == "check_numerics" else self.steps


WORKLOADS = {
    "mlp": Workload("small MLP, `fit`", steps=600),
    "mobilenet": Workload("MobileNetV2 96x96, `fit`", steps=4),
    "lstm": Workload("LSTM, `fit`", steps=120),
    "transformer": Workload("Transformer, `fit`", steps=40),
    "function-loop": Workload("CNN, `tf.function` loop", steps=150),
    "eager-loop": Workload("MLP, eager loop", steps=40, bar=1.5, check_numerics_steps=4),
}
SHORT = ("mlp", "function-loop")
START_WORKLOADS = ("mlp", "mobilenet")


@dataclass(frozen=True)
class Segment:
    """What one segment took, `cpu` and `wall` per step, in seconds; peak memory in KiB, None where it is not known."""

    cpu: float
    wall: float
    finished_at: float
    cpu_since_start: float
    peak_memory: int | None


@dataclass(frozen=True)
class Worker:
    """A process that trains one workload in one arm, a segment at a time."""

    process: subprocess.Popen[str]
    errors: IO[str]
    started_at: float

    @classmethod
    @contextmanager
    def running(
        cls, arm: str, workload: str, *, threads: int, steps: int, flags: Sequence[str] = (), exit_code: int = 0
    ) -> Iterator[Worker]:
        """Starts a worker, and in the end lets it finish.

        Args:
            arm: One of `ARMS`.
            workload: One of `WORKLOADS`.
            threads: Size of each of TensorFlow's two thread pools.
            steps: Training steps in a segment.
            flags: Further arguments to the script.
            exit_code: The exit code that it must end with.

        Raises:
            WorkerError: If it ends with another exit code.
        """
        runner = ["-m", "nanguard", "run"] if arm == "nanguard" else []
        check = ["--check-numerics"] if arm == "check_numerics" else []
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_NUM_INTEROP_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
        }
        # A file and not a pipe: nobody reads it while the process runs, and a full pipe would stop it.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            started_at = time.time()
            process = subprocess.Popen(
                [sys.executable, *runner, SCRIPT, workload, "--steps", str(steps), *check, *flags],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            worker = cls(process, errors, started_at)
            try:
                yield worker
            except BaseException:
                process.kill()
                process.communicate()
                raise
            process.communicate()  # the end of stdin ends the training
            if process.returncode != exit_code:
                raise worker.failure()

    def train(self) -> Segment:
        """Grants one segment and waits for its figures."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.failure() from None
        for line in self.lines():
            if line.startswith('{"cpu"'):
                return Segment(**json.loads(line))
        raise self.failure()

    def lines(self) -> Iterator[str]:
        """Gives the lines of stdout as they come."""
        assert self.process.stdout is not None
        # Not `for line in stdout`, which would read ahead: a line is timed as it arrives.
        return iter(self.process.stdout.readline, "")

    def failure(self) -> WorkerError:
        """Says which command failed, and the end of what it printed to stderr."""
        code = self.process.wait()
        self.errors.seek(0)
        tail = "".join(self.errors.readlines()[-20:])
        return WorkerError(f"exit code {code} from {self.process.args!r}\n{tail}")


class WorkerError(Exception):
    """A worker ended before its time or with the wrong exit code."""


@dataclass(frozen=True)
class Row:
    """How one arm compares with plain on one workload."""

    title: str
    arm: str
    milliseconds: float  # CPU time per step
    cpu: Spread
    wall: Spread
    memory: float | None
    bar: float | None

    @property
    def is_met(self) -> bool:
        """Whether the arm has no bar or stays within it."""
        if self.bar is None:
            return True
        return max(self.cpu.median, self.wall.median) <= self.bar and (self.memory or 0.0) <= MEMORY_BAR


@dataclass(frozen=True)
class Delay:
    """A time that a user of `nanguard run` waits for, in seconds."""

    what: str
    seconds: float
    note: str
    bar: float

    @property
    def is_met(self) -> bool:
        """Whether it stays within the bar."""
        return self.seconds <= self.bar


def compare(name: str, *, arms: Sequence[str], rounds: int, threads: int) -> list[Row]:
    """Trains one workload in all arms at once, taking turns, and compares every arm with plain round by round.

    All processes live through the whole comparison, and one at a time computes. The order rotates from round to round,
    so that what drifts (clock rate, temperature, a neighbour on the machine) falls on all arms alike.
    """
    workload = WORKLOADS[name]
    segments: dict[str, list[Segment]] = {arm: [] for arm in arms}
    with ExitStack() as stack:
        workers = {}
        for arm in arms:
            workers[arm] = stack.enter_context(Worker.running(arm, name, threads=threads, steps=workload.steps_of(arm)))
            workers[arm].train()  # the imports and the tracing, before the next process starts
        for number in range(WARM_UP_ROUNDS + rounds):
            first = number % len(arms)
            for arm in (*arms[first:], *arms[:first]):
                segment = workers[arm].train()
                if number >= WARM_UP_ROUNDS:
                    segments[arm].append(segment)

    plain = segments[PLAIN]
    plain_memory = plain[-1].peak_memory
    rows = []
    for arm in arms:
        measured = segments[arm]
        memory = measured[-1].peak_memory
        rows.append(
            Row(
                title=workload.title,
                arm=arm,
                milliseconds=1e3 * statistics.median(segment.cpu for segment in measured),
                cpu=Spread.of([ours.cpu / theirs.cpu for ours, theirs in zip(measured, plain, strict=True)]),
                wall=Spread.of([ours.wall / theirs.wall for ours, theirs in zip(measured, plain, strict=True)]),
                memory=memory / plain_memory if memory and plain_memory else None,
                bar=workload.bar if arm == "nanguard" else None,
            )
        )
    return rows


def start(name: str, *, repeats: int, threads: int) -> Delay:
    """Measures what `nanguard run` adds between the start of a script and the end of its first training step."""
    wall: dict[str, list[float]] = {PLAIN: [], "nanguard": []}
    cpu: dict[str, list[float]] = {PLAIN: [], "nanguard": []}
    for number in range(repeats):
        for arm in (PLAIN, "nanguard") if number % 2 else ("nanguard", PLAIN):
            with Worker.running(arm, name, threads=threads, steps=1) as worker:
                segment = worker.train()
                wall[arm].append(segment.finished_at - worker.started_at)
                cpu[arm].append(segment.cpu_since_start)
    plain, ours = statistics.median(wall[PLAIN]), statistics.median(wall["nanguard"])
    added_cpu = statistics.median(cpu["nanguard"]) - statistics.median(cpu[PLAIN])
    return Delay(
        what=f"added to the start, {WORKLOADS[name].title}",
        seconds=ours - plain,
        note=f"{plain:.2f} s plain, {ours:.2f} s under nanguard, medians of {repeats}; CPU time {added_cpu:+.2f} s",
        bar=START_BAR,
    )


def incident(*, repeats: int, threads: int) -> Delay:
    """Measures how long a user waits from a batch with a NaN row to the end of the printed report."""
    seconds = []
    for _ in range(repeats):
        with Worker.running(
            "nanguard", "mobilenet", threads=threads, steps=5, flags=["--bad-row"], exit_code=1
        ) as worker:
            handed_over_at = reported_at = None
            for line in worker.lines():
                if line.startswith('{"handed_over_at"'):
                    handed_over_at = json.loads(line)["handed_over_at"]
                elif line.strip():
                    reported_at = time.time()
            if handed_over_at is None or reported_at is None:
                raise worker.failure()
            seconds.append(reported_at - handed_over_at)
    return Delay(
        what="from a batch with a NaN row to the report, MobileNetV2 96x96",
        seconds=statistics.median(seconds),
        note=f"median of {repeats}, {count(threads, 'thread')}",
        bar=INCIDENT_BAR,
    )


def tables(rows: Sequence[Row], delays: Sequence[Delay]) -> str:
    """Writes the figures as Markdown."""
    lines = [
        "| workload | arm | CPU ms a step | CPU time, plain = 1 | wall time, plain = 1 | memory, plain = 1 | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        memory = "" if row.memory is None else f"{row.memory:.2f}"
        bar, outcome = ("", "") if row.bar is None else (f"{row.bar:.2f}", verdict(row.is_met))
        ratios = ("1", "1", "1") if row.arm == PLAIN else (str(row.cpu), str(row.wall), memory)
        lines.append(table_row(row.title, row.arm, f"{row.milliseconds:.2f}", *ratios, bar, outcome))
    if delays:
        lines += ["", "| delay | seconds | | bar | |", "|---|--:|---|--:|---|"]
    for delay in delays:
        seconds, bar = f"{delay.seconds:.2f}", f"{delay.bar:.1f}"
        lines.append(table_row(delay.what, seconds, delay.note, bar, verdict(delay.is_met)))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; gives 0 if every bar was met, 1 if one was missed, 2 if it could not be run."""
    parser = Options("benchmarks.overhead", __doc__, short=" and ".join(SHORT), rounds=(25, 5))
    parser.add_argument("--arms", default=None, help=f"comma-separated, of: {', '.join(ARMS)}; plain is always one")
    parser.add_argument("--threads", type=int, default=1, help="threads in each of TensorFlow's pools (1)")
    options = parser.parse(arguments)
    rounds = options.rounds
    names = parser.matching(options.only or (SHORT if options.short else ("*",)), WORKLOADS)
    usual = [arm for arm in ARMS if not options.short or " " not in arm]
    asked = parser.listed("arm", options.arms or ",".join(usual), ARMS)
    arms = [arm for arm in ARMS if arm == PLAIN or arm in asked]

    rows: list[Row] = []
    delays: list[Delay] = []
    try:
        for name in names:
            print(f"{WORKLOADS[name].title} ...", file=sys.stderr, flush=True)
            rows += compare(name, arms=arms, rounds=rounds, threads=options.threads)
        if "nanguard" in arms and not options.short:
            print("delays ...", file=sys.stderr, flush=True)
            delays += [start(name, repeats=5, threads=options.threads) for name in START_WORKLOADS if name in names]
            if "mobilenet" in names:
                # What a user waits for, so with all the threads that a user would have.
                delays.append(incident(repeats=3, threads=os.cpu_count() or 1))
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 2

    threads = f"{count(options.threads, 'thread')} in each of TensorFlow's pools"
    text = f"{conditions(threads, count(rounds, 'round'))}\n\n{tables(rows, delays)}"
    print(text)
    if options.markdown:
        write_section(options.markdown, SECTION, text)
    if options.short:
        return 0
    return 0 if all(row.is_met for row in rows) and all(delay.is_met for delay in delays) else 1


if __name__ == "__main__":
    sys.exit(main())
