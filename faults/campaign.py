"""The work of a campaign, in pieces that several processes share."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import tensorflow as tf

from benchmarks.pages import count
from faults import flips, healthy, ours, peers, tables
from faults.families import FAMILIES

HEALTHY_STEPS = 100_000
FLIPS = 3  # of each bit in each target of each family
PEERS_ON = ("dense", "conv + BN", "LSTM")


@dataclass(frozen=True)
class Task:
    """One piece of work for one process.

    Args:
        kind: Which room of the campaign does it.
        arguments: What it is given; a setting or a family comes first.
    """

    kind: str
    arguments: tuple[Any, ...]

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        first = self.arguments[0]
        return f"{self.kind}: {first.title if isinstance(first, ours.Setting) else first}"


RUNS: dict[str, Callable[..., Any]] = {
    "faults": ours.run,
    "flips": flips.run,
    "peers": peers.run,
    "healthy": healthy.run,
}


def tasks(*, is_short: bool, only: Sequence[str]) -> list[Task]:
    """All work, the longest first."""
    found: list[Task] = []
    if is_short:
        # A tenth of the faults: with 3 steps and 4 numbers, every third or fourth would be always the same.
        every = 10
        found += [
            Task("faults", (ours.Setting("dense", loop="optimizer", jit=True, every=every),)),
            Task("faults", (ours.Setting("GAN", every=every),)),
            Task("faults", (ours.Setting("conv + BN", "mixed_float16", loop="apply", every=every),)),
            Task("faults", (ours.Setting("multi-output", loop="apply", every=every),)),
            Task("peers", ("dense", 10)),
        ]
    else:
        for place, family in enumerate(sorted(FAMILIES, key=lambda name: name != "Transformer")):
            for number, (jit, dtype) in enumerate(
                (jit, dtype) for jit in (True, False) for dtype in ("mixed_float16", "float32")
            ):
                loop = ours.LOOPS[(place + number) % len(ours.LOOPS)]
                found.append(Task("faults", (ours.Setting(family, dtype, jit, loop),)))
        for place, family in enumerate(FAMILIES):
            dtype = ("float32", "mixed_float16")[place % 2]
            setting = ours.Setting(family, dtype, place % 4 > 1, styles=("fit",), every=7, explains=True)
            found.append(Task("faults", (setting,)))
        found += [Task("healthy", (family, HEALTHY_STEPS // len(FAMILIES))) for family in FAMILIES]
        found += [Task("flips", (family, FLIPS)) for family in FAMILIES]
        found += [Task("peers", (family,)) for family in PEERS_ON]
    return [task for task in found if any(fnmatch(task.title.lower(), f"*{glob.lower()}*") for glob in only)]


def work(task: Task) -> tuple[Task, Any]:
    """Does one piece of work, and gives it with what came of it."""
    warnings.simplefilter("ignore")  # of Keras about the infinities that it is given
    return task, RUNS[task.kind](*task.arguments)


def _prepare() -> None:
    # Several processes share the machine; with one thread each op adds up in one order.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    tf.get_logger().setLevel("ERROR")


def collect(given: Sequence[Task], processes: int) -> tables.Found:
    """Does all the work, in so many processes."""
    found = tables.Found()
    # Not a ProcessPoolExecutor: where it replaces its processes, it may wait for ever (cpython 115634).
    context = multiprocessing.get_context("spawn")
    # Traced functions are never freed: a process does a few pieces and is replaced.
    with context.Pool(processes, initializer=_prepare, maxtasksperchild=8) as pool:
        for number, (task, result) in enumerate(pool.imap_unordered(work, given), start=1):
            if task.kind == "faults":
                found.ours += result
            elif task.kind == "flips":
                found.restored += result[0]
                found.flips += result[1]
            elif task.kind == "peers":
                found.peers += result
            else:
                found.healthy.append(result)
            missed = count(len(found.misses()), "bar")
            print(f"{number}/{len(given)} {task.title} ({missed} missed)", file=sys.stderr, flush=True)
    order = list(FAMILIES)
    for part in (found.ours, found.restored, found.peers, found.flips, found.healthy):
        part.sort(key=lambda each: order.index(each.family))
    return found
