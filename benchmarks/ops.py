"""Compares every op and loss with the plain one, forward and backward, in CPU time; see docs/benchmarks.md.

python -m benchmarks.ops [--short] [--only GLOB] [--modes graph,xla] [--rounds N] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from benchmarks.options import Options
from benchmarks.pages import Spread, conditions, count, table, verdict, write_section

SECTION = "ops"
OP_BAR = 1.3
LOSS_BAR = 1.1
MODES = ("graph", "xla")
SIDE = 1000  # 1M elements: a square of this side, or as many in a row
SEGMENT = 0.02  # seconds of CPU time in one segment
SHORT = ("log", "MeanSquaredError*")

# A result of 4 MB comes from mmap and goes back at once, so that every op faults in a thousand pages anew. Whether it
# does depends on what the process allocated before: the same op was 1.08 in one process and 1.47 in the next.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(1 << 30),
}

Step = Callable[[], Any]


@dataclass(frozen=True)
class Contest:
    """Two functions that are to take the same time.

    Args:
        title: What is compared.
        ours: Ours, of `operands`.
        plain: The plain one.
        plain_title: Its public name.
        operands: The tensors that it is called with, as arrays; the gradients to the last ones are asked for.
        fixed: How many of the first operands are not differentiated, such as labels.
        bar: Largest CPU time that ours may take, in that of the plain one.
    """

    title: str
    ours: Callable[..., Any]
    plain: Callable[..., Any]
    plain_title: str
    operands: tuple[Any, ...]
    fixed: int
    bar: float


@dataclass(frozen=True)
class Row:
    """How ours compares with the plain one in one mode."""

    title: str
    plain_title: str
    mode: str
    milliseconds: float  # CPU time of the plain one
    again: Spread  # a second trace of the plain one: the error of the method
    ours: Spread
    bar: float

    @property
    def is_met(self) -> bool:
        """Whether ours stays within the bar."""
        return self.ours.median <= self.bar


def step_of(contest: Contest, function: Callable[..., Any], mode: str) -> Step:
    """Gives one forward and backward pass of a function, traced anew, with a gradient that comes from above."""
    import tensorflow as tf

    operands = [tf.constant(operand) for operand in contest.operands]

    def passes(upstream: tf.Tensor, *operands: tf.Tensor) -> Any:
        differentiated = operands[contest.fixed :]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(differentiated)
            value = function(*operands)
        return value, tape.gradient(value, differentiated, output_gradients=tf.reshape(upstream, tf.shape(value)))

    value = function(*operands)
    upstream = tf.constant(0.5 + 0.5 * (tf.range(tf.size(value)) % 2 == 0).numpy(), value.dtype)
    compiled = tf.function(passes, jit_compile=mode == "xla", autograph=False).get_concrete_function(
        upstream, *operands
    )
    return lambda: compiled(upstream, *operands)


def compare(contest: Contest, *, mode: str, rounds: int) -> Row:
    """Runs ours, the plain one and the plain one again in turns, and compares them round by round."""
    steps = [step_of(contest, function, mode) for function in (contest.plain, contest.plain, contest.ours)]
    calls = _calls_in_a_segment(steps)
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        # The order rotates, so that what one step leaves in the caches falls on all alike.
        for place in ((number + turn) % len(steps) for turn in range(len(steps))):
            taken = _segment(steps[place], calls)
            if number:  # the first round warms up
                seconds[place].append(taken)
    plain, again, ours = seconds
    return Row(
        title=contest.title,
        plain_title=contest.plain_title,
        mode=mode,
        milliseconds=1e3 * statistics.median(plain),
        again=Spread.of([a / b for a, b in zip(again, plain, strict=True)]),
        ours=Spread.of([a / b for a, b in zip(ours, plain, strict=True)]),
        bar=contest.bar,
    )


def _segment(step: Step, calls: int) -> float:
    started_at = time.process_time()
    for _ in range(calls):
        step()
    return (time.process_time() - started_at) / calls


def _calls_in_a_segment(steps: Sequence[Step]) -> int:
    for step in steps:
        step()
    slowest = max(_segment(step, 1) for step in steps)
    return max(1, round(SEGMENT / max(slowest, 1e-6)))


def op_contests(patterns: Sequence[str]) -> tuple[list[Contest], list[str]]:
    """Gives the contests of the ops, and the names of those that replace no single function."""
    from nanguard.ops._operation import OPS
    from verification.sweep import resolve
    from verification.ways import way_of

    contests, left_out = [], []
    for name, record in sorted(OPS.items()):
        if not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        if not record.replaces:
            left_out.append(name)
            continue
        way = way_of(record)
        plain = record.replaces[0]
        contests.append(
            Contest(
                title=name,
                ours=way.bind(record.function),
                plain=way.bind(resolve(plain), is_peer=True),
                plain_title=plain,
                operands=way.everyday(SIDE),
                fixed=0,
                bar=OP_BAR,
            )
        )
    return contests, left_out


def loss_contests(patterns: Sequence[str]) -> tuple[list[Contest], list[str]]:
    """Gives the contests of the losses that Keras has too, and the names of those that it lacks."""
    import keras

    import nanguard.losses
    from verification import losses
    from verification.kinds import KINDS, loss_names, variants

    contests, left_out = [], []
    for name in loss_names():
        if not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        if not hasattr(keras.losses, name):
            left_out.append(name)
            continue
        if name not in KINDS:
            left_out.append(f"{name} (`verification/kinds.py` does not say what it is fed with)")
            continue
        for variant in variants(name):
            contests.append(
                Contest(
                    title=variant.title,
                    ours=getattr(nanguard.losses, name)(**variant.arguments),
                    plain=getattr(keras.losses, name)(**variant.arguments),
                    plain_title=f"keras.losses.{name}",
                    operands=losses.everyday(variant, SIDE),
                    fixed=1,
                    bar=LOSS_BAR,
                )
            )
    return contests, left_out


def tables(rows: Sequence[Row], left_out: Sequence[str], failed: Sequence[str]) -> str:
    """Writes the figures as Markdown, and names the misses."""
    head = ["", "plain", "mode", "plain, CPU ms", "plain again", "nanguard, plain = 1", "bar", ""]
    lines = table(
        head,
        [
            [
                row.title,
                f"`{row.plain_title}`",
                row.mode,
                f"{row.milliseconds:.2f}",
                str(row.again),
                str(row.ours),
                f"{row.bar:.2f}",
                verdict(row.is_met),
            ]
            for row in rows
        ],
        texts=3,
    )
    missed = [f"{row.title} ({row.mode}) {row.ours.median:.2f}" for row in rows if not row.is_met]
    lines += ["", f"Missed {len(missed)} of {count(len(rows), 'bar')}{': ' if missed else ''}{', '.join(missed)}."]
    if left_out:
        lines += ["", f"Not compared, since there is no plain one: {', '.join(left_out)}."]
    if failed:
        lines += ["", *[f"- {failure}" for failure in failed]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; gives 0 if every bar was met, 1 if one was missed, 2 if something could not be run."""
    parser = Options("benchmarks.ops", __doc__, short=" and ".join(SHORT), rounds=(25, 5))
    parser.add_argument("--modes", default=",".join(MODES), help=f"comma-separated, of: {', '.join(MODES)}")
    options = parser.parse(arguments)
    rounds = options.rounds
    modes = parser.listed("mode", options.modes, MODES)
    patterns = options.only or (SHORT if options.short else ("*",))

    rows: list[Row] = []
    failed: list[str] = []
    contests, left_out = op_contests(patterns)
    of_losses, lacking = loss_contests(patterns)
    for contest in (*contests, *of_losses):
        print(f"{contest.title} ...", file=sys.stderr, flush=True)
        for mode in modes:
            try:
                rows.append(compare(contest, mode=mode, rounds=rounds))
            except Exception as error:  # the others are still to be measured
                failed.append(f"{contest.title} did not run in {mode}: {type(error).__name__}: {str(error)[:200]}")

    details = "float32, 1M elements, 1 thread", count(rounds, "round")
    text = f"{conditions(*details)}\n\n{tables(rows, [*left_out, *lacking], failed)}"
    print(text)
    if options.markdown:
        write_section(options.markdown, SECTION, text)
    if failed:
        return 2
    return 0 if options.short or all(row.is_met for row in rows) else 1


def prepared_environment() -> dict[str, str]:
    """Gives the environment in which a measurement repeats."""
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, **ALLOCATOR, **threads, **quiet}


if __name__ == "__main__":
    # The allocator reads its settings as a process starts.
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.ops", *sys.argv[1:]], prepared_environment())
    sys.exit(main())
