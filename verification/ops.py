"""Measures every op of the registry beside what it replaces, on the same numbers."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from nanguard.intervals import float_format
from nanguard.ops._operation import OPS, OpRecord
from verification.numbers import (
    HALVES,
    Array,
    all_numbers,
    as_float64,
    chunks,
    every_exponent,
    everyday_numbers,
    numpy_dtype,
    pairs,
    random_numbers,
    special_numbers,
)
from verification.row_truth import ordinary_rows, row_errors
from verification.sweep import Failure, Result, Tally, resolve, runner
from verification.truth import Truth, truth_of
from verification.ways import CLAMPS, Way, way_of

OURS = "nanguard"


@dataclass(frozen=True)
class Effort:
    """How many numbers are tried.

    Args:
        sweep: Random bit patterns of a float32 operand.
        sweep64: Of a float64 operand.
        everyday: Pairs and rows of numbers as trainings have them, in each dtype.
        exact: float64 values, and points of each float64 formula, that mpmath computes.
        modes: The modes in which half-precision and special numbers are tried.
        losses: The dtypes of the losses.
    """

    sweep: int = 10_000_000
    sweep64: int = 1_000_000
    everyday: int = 1_000_000
    exact: int = 20_000
    modes: tuple[str, ...] = ("graph", "eager", "xla")
    losses: tuple[str, ...] = ("float32", "float16", "bfloat16")


FULL = Effort()
SHORT = Effort(sweep=0, sweep64=0, everyday=20_000, exact=300, modes=("graph",), losses=("float32",))


@dataclass
class OpFigures:
    """What was measured of one op.

    Args:
        name: Its name.
        tallies: The figures by arm, dtype and mode.
        kernel_error: Largest relative error of the float64 formula against mpmath; None where there is no formula.
        failures: What could not be run.
    """

    name: str
    tallies: dict[tuple[str, str, str], Tally] = field(default_factory=dict)
    kernel_error: float | None = None
    failures: list[Failure] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """The op and its peers, in this order."""
        return list(dict.fromkeys([OURS, *(arm for arm, _, _ in self.tallies)]))

    def total(self, arm: str, *, mode: str, dtype: str | None = None) -> Tally | None:
        """Gives the figures of an arm in one dtype, or in all, None if it was not run."""
        found = [
            tally
            for (own_arm, own_dtype, own_mode), tally in self.tallies.items()
            if own_arm == arm and own_mode == mode and dtype in (None, own_dtype)
        ]
        if not found:
            return None
        total = Tally()
        for tally in found:
            total.merge(tally)
        return total


def measure(name: str, effort: Effort) -> OpFigures:
    """Tries one op and its peers on the numbers of all dtypes."""
    record = OPS[name]
    way = way_of(record)
    figures = OpFigures(name)
    truth = truth_of(name) if way.is_elementwise else None
    for dtype, mode in itertools.product(way.dtypes, effort.modes):
        arms = {OURS: way.bind(record.function)}
        # In the other modes the nearest peer alone, to know where the plain op is safe there.
        peers = peers_of(record)
        arms |= {name: way.bind(peer, is_peer=True) for name, peer in (peers if mode == "graph" else peers[:1])}
        batches = inputs(record, way, dtype, effort, with_random=mode == "graph")
        _compare(figures, arms, batches, dtype=dtype, mode=mode, truth=truth, exact=effort.exact)
    if truth is not None:
        figures.kernel_error = _kernel_error(record, way, truth, effort)
    return figures


def peers_of(record: OpRecord) -> list[tuple[str, Callable[..., Any]]]:
    """Gives what an op replaces, by name, and each function once: `tf.math.acos` is `tf.acos`."""
    found: dict[int, tuple[str, Callable[..., Any]]] = {}
    for name in record.replaces:
        function = resolve(name)
        found.setdefault(id(function), (name, function))
    return list(found.values())


def inputs(record: OpRecord, way: Way, dtype: str, effort: Effort, *, with_random: bool) -> Iterator[tuple[Array, ...]]:
    """Gives the operands of an op, batch by batch.

    Args:
        record: The op.
        way: How it is called.
        dtype: Dtype of the operands.
        effort: How many.
        with_random: Whether the long sweep of random numbers is among them.
    """
    random = np.random.default_rng(zlib.crc32(f"{record.name} {dtype}".encode()))
    if not way.is_elementwise:
        yield way.operands(dtype, effort.everyday // 50, random)
        return
    if record.operands == 1:
        if dtype in HALVES:
            yield (all_numbers(dtype),)
            return
        yield (special_numbers(dtype),)
        yield (every_exponent(dtype, significands=16),)
        if with_random:
            number = effort.sweep64 if dtype == "float64" else effort.sweep
            yield from chunks((random_numbers(dtype, number, random),))
        return
    special = special_numbers(dtype)
    grid = pairs(special, special)
    yield (*grid, *[random.permutation(grid[0]) for _ in range(record.operands - 2)])
    if not with_random:
        return
    number = {"float32": effort.sweep, "float64": effort.sweep64}.get(dtype, effort.everyday)
    everyday = tuple(everyday_numbers(dtype, effort.everyday, random) for _ in range(record.operands))
    yield from chunks(everyday)
    sweeps = [random_numbers(dtype, number, random) for _ in range(record.operands)]
    shortest = min(len(sweep) for sweep in sweeps)
    yield from chunks(tuple(sweep[:shortest] for sweep in sweeps))


def _compare(
    figures: OpFigures,
    arms: dict[str, Callable[..., Any]],
    batches: Iterator[tuple[Array, ...]],
    *,
    dtype: str,
    mode: str,
    truth: Truth | None,
    exact: int,
) -> None:
    runners = {arm: runner(function, mode=mode) for arm, function in arms.items()}
    nearest = next((arm for arm in arms if arm != OURS), OURS)
    stand_in = None
    allowed = exact
    for operands in batches:
        if not len(operands[0]):
            continue
        results: dict[str, Result] = {}
        for arm in list(runners):
            try:
                results[arm] = runners[arm](operands)
            except Exception as error:  # whatever a foreign function raises, the others are still to be measured
                del runners[arm]
                figures.failures.append(Failure.of(arm, dtype, mode, error))
                if arm == nearest and dtype in HALVES:
                    stand_in = runner(_in_float32(arms[arm]), mode=mode)
                continue
            figures.tallies.setdefault((arm, dtype, mode), Tally()).add(results[arm], operands)
        if OURS not in results:
            continue
        if truth is None:
            _judge_rows(figures, results, operands, dtype=dtype, mode=mode)
            continue
        plain = results.get(nearest) or (results[OURS] if stand_in is None else stand_in(operands))
        judged = _safe(plain, dtype)
        if dtype == "float64":  # mpmath takes a few microseconds for each
            judged = judged[:: max(1, -(-len(judged) // max(allowed, 1)))][:allowed]
            allowed -= len(judged) // 2
        _judge(figures, results, [operand[judged] for operand in operands], judged, dtype=dtype, mode=mode, truth=truth)


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function that lacks half precision one that takes it, to know where it is safe."""

    def wider(*operands: tf.Tensor) -> tf.Tensor:
        return tf.cast(function(*[tf.cast(operand, tf.float32) for operand in operands]), operands[0].dtype)

    return wider


def _safe(plain: Result, dtype: str) -> Any:
    """Gives the places at which the plain op is safe: a finite value, and slopes that ours leaves alone."""
    is_safe = ~(plain.has_bad_value | plain.has_bad_square)
    for gradient in plain.gradients:
        is_safe &= np.abs(as_float64(gradient)) <= 1 / float_format(dtype).floor
    return np.flatnonzero(is_safe)


def _judge(
    figures: OpFigures,
    results: dict[str, Result],
    operands: Sequence[Array],
    places: Any,
    *,
    dtype: str,
    mode: str,
    truth: Truth,
) -> None:
    # Four times the smallest normal number: a kernel that halves its operand on the way is below it at twice that.
    tiny = 4 * float_format(dtype).smallest_normal
    subnormal_input = np.logical_or.reduce([(x != 0) & (np.abs(x) < tiny) for x in map(as_float64, operands)])
    clamp = CLAMPS.get(figures.name)
    clamped = np.zeros(len(places), bool) if clamp is None else clamp(float_format(dtype), operands)
    figures.tallies[OURS, dtype, mode].clamped += int(clamped.sum())
    for arm, result in results.items():
        right, errors = truth.errors(result.value[places], operands, dtype)
        # Kernels read and write numbers below the smallest normal one as 0, if the thread that runs them says so.
        may_flush = subnormal_input | (np.abs(right) <= tiny)
        tally = figures.tallies[arm, dtype, mode]
        tally.flushed += int((may_flush & ~clamped & ~(errors <= 2)).sum())
        judged = ~may_flush & ~clamped & np.isfinite(right) & np.isfinite(errors)
        tally.judge(errors[judged], [operand[judged] for operand in operands])


def _judge_rows(
    figures: OpFigures, results: dict[str, Result], operands: Sequence[Array], *, dtype: str, mode: str
) -> None:
    is_safe = np.logical_and.reduce([~(result.has_bad_value | result.has_bad_square) for result in results.values()])
    judged = is_safe & ordinary_rows(operands, dtype)
    for arm, result in results.items():
        errors = row_errors(figures.name, result.value, operands, dtype)
        if errors is None:
            return
        known = judged & np.isfinite(errors)
        figures.tallies[arm, dtype, mode].judge(errors[known], [operand[known] for operand in operands])


def _kernel_error(record: OpRecord, way: Way, truth: Truth, effort: Effort) -> float:
    """Gives how far the float64 formula is from mpmath, at numbers of the dtypes that it judges."""
    worst = 0.0
    plain = peers_of(record)[0][1] if record.replaces else record.function
    run = runner(way.bind(plain, is_peer=bool(record.replaces)), mode="eager")
    random = np.random.default_rng(0)
    for dtype in ("float16", "bfloat16", "float32"):
        if record.operands == 1 and dtype in HALVES and effort is FULL:
            operands: tuple[Array, ...] = (all_numbers(dtype),)
        else:
            sources = [special_numbers(dtype), random_numbers(dtype, effort.exact, random)]
            numbers = np.concatenate([*sources, everyday_numbers(dtype, effort.exact, random)]).astype(
                numpy_dtype(dtype)
            )
            operands = tuple(random.permutation(numbers)[: effort.exact] for _ in range(record.operands))
        try:
            result = run(operands)
        except Exception:  # a dtype that the plain op lacks is a fault already named
            continue
        safe = _safe(result, dtype)
        worst = max(worst, truth.kernel_error([operand[safe] for operand in operands]))
    return worst
