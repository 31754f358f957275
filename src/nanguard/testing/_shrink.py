"""From the counterexample that was found to the smallest: few elements, and simple numbers.

Rows and elements are left out or made simple as long as the call stays non-finite; Hypothesis then looks for the
simplest of the few numbers that remain.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from nanguard.testing import _numbers
from nanguard.testing._domain import Domain
from nanguard.testing._search import Found
from nanguard.testing._subject import Mode, Point

_MOST_NUMBERS = 4
_EXAMPLES = 150
# A new shape is traced and compiled anew, which takes longer than a call.
_SECONDS: dict[Mode, float] = {"eager": 1.5, "graph": 2.5, "xla": 3.0}
_MOST_RUNS = 2000


def shrink(found: Found) -> Found:
    """Gives a counterexample that is as small as can be found in the time, for the same mode, dtype and part."""
    return replace(found, point=_Shrinker(found, time.monotonic() + _SECONDS[found.runner.mode]).run())


class _Shrinker:
    def __init__(self, found: Found, end: float) -> None:
        self._found = found
        self._runner = found.runner
        self._dtype = found.runner.dtype
        self._domains = found.runner.subject.domains
        self._end = end
        self._point = found.point
        self._runs = 0
        self._longest = 0.0  # seconds that a run took

    def run(self) -> Point:
        if not self._domains or not self._holds(self._point):
            return self._point  # nothing to shrink, or it cannot be had again: random numbers
        self._cut_rows()
        self._cut_other_axes()
        for place in range(len(self._domains)):
            self._simplify(place)
        self._find_numbers()
        return self._point

    def _holds(self, point: Point) -> bool:
        start = time.monotonic()
        self._runs += 1
        if self._runs > _MOST_RUNS or start + self._longest > self._end:
            return False
        if not self._runner.subject.fits(point, self._dtype):
            return False
        outcome = self._runner.outcome(point)
        self._longest = max(self._longest, time.monotonic() - start)
        return outcome == self._found.part

    def _takes(self, point: Point) -> bool:
        """Goes on from a point if it is still a counterexample."""
        if not self._holds(point):
            return False
        self._point = point
        return True

    # -- shapes

    def _cut_rows(self) -> None:
        lengths = {values.shape[0] if values.ndim else 0 for values in self._point}
        if len(lengths) == 1 and lengths != {0}:
            self._cut(0)

    def _cut_other_axes(self) -> None:
        shapes = {values.shape for values in self._point}
        if len(shapes) != 1:
            return
        num_axes = len(next(iter(shapes)))
        for axis in range(1, num_axes):
            is_last = axis == num_axes - 1
            if all(each.has_free_elements if is_last else each.has_free_rows for each in self._domains):
                self._cut(axis)

    def _cut(self, axis: int) -> None:
        """Keeps half of the places along an axis, as long as one half will do, and then leaves out one by one."""
        while (length := self._point[0].shape[axis]) > 1:
            half = length // 2
            if not (self._keeps(axis, range(half)) or self._keeps(axis, range(half, length))):
                break
        place = 0
        while (length := self._point[0].shape[axis]) > 1 and place < length:
            if not self._keeps(axis, [each for each in range(length) if each != place]):
                place += 1

    def _keeps(self, axis: int, places: Sequence[int]) -> bool:
        return self._takes(tuple(np.take(values, list(places), axis) for values in self._point))

    # -- elements

    def _simplify(self, place: int) -> None:
        """Makes elements of one operand simple: all at once if that will do, or else fewer at a time."""
        domain = self._domains[place]
        simple = domain.simple(self._dtype)
        size = self._point[place].size
        if any(self._replaces(place, slice(None), number) for number in simple[:6]):
            return
        step = size // 2
        while step >= 1 and time.monotonic() < self._end:
            for start in range(0, size, step):
                chunk = self._point[place].reshape(-1)[start : start + step]
                for number in simple[: 4 if step > 1 else None]:
                    if np.array_equal(chunk, np.full(chunk.shape, number)):
                        break
                    if self._replaces(place, slice(start, start + step), number):
                        break
            step //= 2

    def _replaces(self, place: int, where: slice, number: float) -> bool:
        values = self._point[place].copy()
        values.reshape(-1)[where] = number
        values = self._domains[place].project(values, self._dtype)
        if np.array_equal(values, self._point[place], equal_nan=True):
            return False
        return self._takes((*self._point[:place], values, *self._point[place + 1 :]))

    # -- numbers

    def _find_numbers(self) -> None:
        """Has Hypothesis look for the simplest of the numbers that are not simple yet."""
        groups = list(self._groups())[:_MOST_NUMBERS]
        if not groups:
            return
        from hypothesis import HealthCheck, Phase, find, settings, strategies
        from hypothesis.errors import HypothesisException

        # The number that was found is the last way out, so that Hypothesis always has one to start from.
        choices = [strategies.one_of(domain.elements(self._dtype), strategies.just(x)) for _, x, domain in groups]
        origin = self._point
        best = tuple(number for _, number, _ in groups)
        tried: dict[tuple[float, ...], bool] = {}

        def holds(numbers: tuple[float, ...]) -> bool:
            nonlocal best
            if numbers not in tried:
                tried[numbers] = self._takes(_with(origin, groups, numbers, self._dtype))
                if tried[numbers] and self._complexity(numbers) <= self._complexity(best):
                    best = numbers
            return tried[numbers]

        for digits in (3, 2, 1):
            shorter = tuple(
                float(domain.project(np.array(float(f"{number:.{digits}g}")), self._dtype))
                for number, (_, _, domain) in zip(best, groups, strict=True)
            )
            holds(shorter)
        options = settings(
            max_examples=_EXAMPLES,
            database=None,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        with contextlib.suppress(HypothesisException):  # out of time, or not the same twice
            find(strategies.tuples(*choices), holds, settings=options)
        self._point = _with(origin, groups, best, self._dtype)

    def _groups(self) -> Iterator[tuple[int, float, Domain]]:
        """The numbers of each operand that are not simple; equal ones are one, since they may have to stay equal."""
        for place, (values, domain) in enumerate(zip(self._point, self._domains, strict=True)):
            if not (domain.has_free_elements and domain.is_float):
                continue
            simple = domain.simple(self._dtype)[:8]
            for number in np.unique(values[np.isfinite(values)]):
                if float(number) not in simple:
                    yield place, float(number), domain

    def _complexity(self, numbers: Sequence[float]) -> tuple[int, float]:
        spelled = (_numbers.spelled(abs(number), self._dtype) for number in numbers)
        signs = sum(number < 0 for number in numbers)
        return sum(map(len, spelled)) + signs, float(sum(abs(number) for number in numbers))


def _with(point: Point, groups: Sequence[tuple[int, float, Domain]], numbers: Sequence[float], dtype: str) -> Point:
    changed = [values.copy() for values in point]
    for (place, old, _), new in zip(groups, numbers, strict=True):
        changed[place][point[place] == old] = new
    return tuple(changed)
