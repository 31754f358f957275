"""The hunt: special points first, then random ones, then what grows, then what a gradient leads to."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nanguard.testing import _numbers
from nanguard.testing._guided import Guide
from nanguard.testing._subject import Mode, Outcome, Part, Point, Runner, Subject

_BATCH = 256
_MOST_SPECIALS = 400
_GENERATIONS = 8
_PARENTS = 16
_SLOWER = 5  # how many times fewer random points are tried one by one


@dataclass(frozen=True)
class Found:
    """A point at which something is not finite.

    Args:
        point: The operands.
        part: What is not finite, the value or the gradient.
        runner: The dtype and the mode.
        stage: What found it: "special", "random", "growth" or "guided".
        also: The other modes in which the same point is not finite.
    """

    point: Point
    part: Part
    runner: Runner
    stage: str
    also: tuple[Mode, ...] = ()


class Hunt:
    """Looks for a point at which a subject is not finite.

    Args:
        subject: What is run.
        modes: In which modes.
        seconds: When to stop, for all dtypes together.
        max_examples: How many random points to try for each dtype.
        seed: Of the random points.
    """

    def __init__(
        self, subject: Subject, modes: Sequence[Mode], *, seconds: float, max_examples: int, seed: int
    ) -> None:
        self._subject = subject
        self._modes = modes
        self._end = time.monotonic() + seconds
        self._max_examples = max_examples
        self._seed = seed
        self.runners: list[Runner] = []

    def run(self, dtypes: Sequence[str]) -> Found | None:
        """Hunts in one dtype after the other; each has its share of the time that is left."""
        for place, dtype in enumerate(dtypes):
            now = time.monotonic()
            share = max(self._end - now, 0.0) / (len(dtypes) - place)
            found = _InDtype(self._subject, dtype, self._modes, now + share, self._max_examples, self._seed, self)
            result = found.run()
            if result is not None:
                return result
        return None


class _InDtype:
    def __init__(
        self,
        subject: Subject,
        dtype: str,
        modes: Sequence[Mode],
        end: float,
        max_examples: int,
        seed: int,
        hunt: Hunt,
    ) -> None:
        self._subject = subject
        self._dtype = dtype
        self._end = end
        self._max_examples = max_examples
        self._rng = np.random.default_rng(seed)
        self._runners = {mode: Runner(subject, dtype, mode, end=end) for mode in modes}
        hunt.runners += self._runners.values()

    def run(self) -> Found | None:
        """From what costs least to what costs most."""
        eager, graph, xla = (self._runners.get(mode) for mode in ("eager", "graph", "xla"))
        specials = self._specials()
        only = specials[0] if specials else ()
        if all(domain.is_single for domain in self._subject.domains):
            return next(
                (each for runner in self._runners.values() if (each := self._confirmed(runner, only, "special"))), None
            )
        fast = next(runner for runner in (graph, eager, xla) if runner is not None)
        searches: list[Callable[[], Found | None]] = []
        if eager is not None:
            searches.append(lambda: self._try(eager, specials[:24], "special"))
        searches.append(lambda: self._try(fast, specials, "special"))
        if xla is not None and xla is not fast:
            searches.append(lambda: self._try(xla, specials[:100], "special"))
        searches.append(lambda: self._random(fast))
        searches.append(lambda: self._growth(fast))
        searches.append(lambda: self._guided(fast))
        if eager is not None:
            searches.append(lambda: self._slowly(eager, specials, 24))
        if xla is not None:
            searches.append(lambda: self._slowly(xla, specials, 200))
        for search in searches:
            found = search()
            if found is not None:
                return found
            if graph is not None and graph.is_hopeless:  # no graph can be made: eager calls are all there is
                fast = eager if eager is not None else fast
            if self._is_over():
                break
        return None

    def _is_over(self) -> bool:
        return time.monotonic() > self._end

    # -- points

    def _specials(self) -> list[Point]:
        """Special points of the operands: those of one rank together first, then others at random."""
        lists = [domain.specials(self._dtype) for domain in self._subject.domains]
        if not lists:
            return []
        longest = max(map(len, lists))
        places = [tuple(place % len(each) for each in lists) for place in range(longest)]
        rest = np.prod([len(each) for each in lists])
        if rest <= _MOST_SPECIALS:
            places += itertools.product(*(range(len(each)) for each in lists))
        else:
            drawn = [self._rng.integers(0, len(each), _MOST_SPECIALS) for each in lists]
            places += zip(*(each.tolist() for each in drawn), strict=True)
        return [
            tuple(each[place] for each, place in zip(lists, chosen, strict=True)) for chosen in dict.fromkeys(places)
        ]

    def _draw(self, count: int) -> Point:
        """Random points, stacked; now and then two operands of one shape agree."""
        drawn = [domain.random(self._rng, count, self._dtype) for domain in self._subject.domains]
        domains = self._subject.domains
        for first, second in itertools.combinations(range(len(drawn)), 2):
            if domains[first].shape == domains[second].shape and domains[first].is_float and domains[second].is_float:
                same = self._rng.random((count, *([1] * len(domains[first].shape)))) < 0.15
                same = same | (self._rng.random(drawn[first].shape) < 0.05)
                drawn[second] = domains[second].project(np.where(same, drawn[first], drawn[second]), self._dtype)
        return tuple(drawn)

    # -- searches

    def _try(self, runner: Runner, points: Sequence[Point], stage: str) -> Found | None:
        if runner.mode == "eager" or runner.mode == "xla":
            for point in points:
                outcome = runner.outcome(point)
                if outcome in ("value", "gradient"):
                    return self._found(runner, point, outcome, stage)
                if runner.is_hopeless or self._is_over():
                    return None
            return None
        stacked = tuple(np.stack(values) for values in zip(*points, strict=True))
        return self._in_batches(runner, stacked, stage)

    def _in_batches(self, runner: Runner, points: Point, stage: str) -> Found | None:
        for start in range(0, len(points[0]), _BATCH):
            found, _ = self._batch(runner, tuple(each[start : start + _BATCH] for each in points), stage)
            if found is not None or runner.is_hopeless or self._is_over():
                return found
        return None

    def _batch(self, runner: Runner, points: Point, stage: str) -> tuple[Found | None, np.ndarray]:
        outcomes, sizes = runner.outcomes(points)
        suspects = [place for place, outcome in enumerate(outcomes) if outcome in ("value", "gradient")]
        for place in suspects[:8]:
            found = self._confirmed(runner, tuple(values[place] for values in points), stage)
            if found is not None:
                return found, sizes
        return None, sizes

    def _confirmed(self, runner: Runner, point: Point, stage: str) -> Found | None:
        outcome = runner.outcome(point)
        return self._found(runner, point, outcome, stage) if outcome in ("value", "gradient") else None

    def _found(self, runner: Runner, point: Point, outcome: Outcome, stage: str) -> Found:
        """The first mode in which the point is not finite, with the others."""
        seen = {mode: outcome if each is runner else each.outcome(point) for mode, each in self._runners.items()}
        bad = [mode for mode, each in seen.items() if each in ("value", "gradient")]
        first = bad[0]
        part: Part = "value" if seen[first] == "value" else "gradient"
        return Found(point, part, self._runners[first], stage, tuple(bad[1:]))

    def _random(self, runner: Runner) -> Found | None:
        for start in range(0, self._max_examples, _BATCH):
            found, _ = self._batch(runner, self._draw(min(_BATCH, self._max_examples - start)), "random")
            if found is not None or runner.is_hopeless or self._is_over():
                return found
            if not runner.is_batched and start + _BATCH >= self._max_examples // _SLOWER:
                return None
        return None

    def _slowly(self, runner: Runner, specials: Sequence[Point], count: int) -> Found | None:
        """A few points in a mode that takes them one by one, after a quicker mode was finite on all of them."""
        chosen = self._rng.permutation(len(specials))[:count]
        drawn = self._draw(count)
        points = [
            *(specials[place] for place in chosen),
            *(tuple(values[place] for values in drawn) for place in range(count)),
        ]
        return self._try(runner, points, "random")

    def _growth(self, runner: Runner) -> Found | None:
        """Breeds from the points with the largest values and gradients: what grows may have a pole near by."""
        points = self._draw(_BATCH)
        for _ in range(_GENERATIONS):
            found, sizes = self._batch(runner, points, "growth")
            if found is not None or runner.is_hopeless or self._is_over() or not sizes.any():
                return found
            best = [np.argsort(-sizes[:, column], kind="stable")[:_PARENTS] for column in range(2)]
            parents = np.concatenate(best)
            chosen = parents[self._rng.integers(0, len(parents), _BATCH)]
            fresh = self._draw(_BATCH)
            points = tuple(
                self._mutated(values[chosen], new, place)
                for place, (values, new) in enumerate(zip(points, fresh, strict=True))
            )
        return None

    def _mutated(self, values: np.ndarray, fresh: np.ndarray, place: int) -> np.ndarray:
        domain = self._subject.domains[place]
        rng, shape = self._rng, values.shape
        style = rng.integers(0, 4, (len(values), *([1] * (values.ndim - 1))))
        some = rng.random(shape) < 0.25
        scaled = values * np.exp2(rng.normal(0, 4, style.shape)) if domain.is_float else fresh
        mixed = np.where(some, fresh, values)
        rolled = np.where(some, np.roll(values, 1, axis=-1), values) if values.ndim > 1 else mixed
        changed = np.select([style == 0, style == 1, style == 2], [mixed, scaled, rolled], values)
        if domain.is_float:
            moved = self._nudged(changed, place)
            changed = np.where(style == 3, moved, changed)
        return domain.project(changed, self._dtype)

    def _nudged(self, values: np.ndarray, place: int) -> np.ndarray:
        domain = self._subject.domains[place]
        with np.errstate(over="ignore", invalid="ignore"):
            held = np.ascontiguousarray(values.astype(_numbers.numpy_dtype(domain.dtype_in(self._dtype))))
            moved = _numbers.stepped(held, self._rng.integers(-2, 3, held.shape)).astype(np.float64)
        return domain.project(np.where(np.isfinite(moved) & np.isfinite(values), moved, values), self._dtype)

    def _guided(self, runner: Runner) -> Found | None:
        """Follows gradients towards the regions of the catalogue, for the operands of each op that has any."""
        guide = Guide(self._subject, self._dtype)
        if not guide.aims:
            return None
        for points in self._guided_points(guide):
            found, _ = self._batch(runner, points, "guided")
            if found is not None or self._is_over():
                return found
        return None

    def _guided_points(self, guide: Guide) -> Iterator[Point]:
        for start in range(0, len(guide.aims), _BATCH // 4):
            aims = guide.aims[start : start + _BATCH // 4] * 4
            points = self._draw(len(aims))
            for _ in range(guide.num_steps):
                if self._is_over():
                    return
                moved = guide.step(points, aims)
                if moved is None:
                    return
                points = moved
                yield points
            for _ in range(3):
                yield tuple(
                    self._nudged(values, place) if domain.is_float else values
                    for place, (values, domain) in enumerate(zip(points, self._subject.domains, strict=True))
                )
