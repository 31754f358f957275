"""The kinds of domains that `nanguard.testing.domains` gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from nanguard.intervals import float_format
from nanguard.testing import _numbers

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Domain(ABC):
    """The points that an operand may be: arrays of one shape.

    Points are NumPy arrays of float64 or int64 that the operand's dtype holds exactly.

    Args:
        shape: Shape of a point.
        dtype: Dtype of the operand; None for the float dtype that is being tested.
    """

    shape: tuple[int, ...]
    dtype: str | None = None

    @property
    def is_float(self) -> bool:
        """Whether the operand is floating."""
        return self.dtype is None or self.dtype.startswith(("float", "bfloat"))

    @property
    def has_free_elements(self) -> bool:
        """Whether each element may be what it likes, whatever the others and the shape are."""
        return False

    @property
    def has_free_rows(self) -> bool:
        """Whether each row along the last axis may be what it likes, whatever the others and their number are."""
        return self.has_free_elements

    @property
    def is_single(self) -> bool:
        """Whether it has one point alone."""
        return False

    def dtype_in(self, dtype: str) -> str:
        """Gives the operand's dtype where floats are of `dtype`."""
        return self.dtype or dtype

    @abstractmethod
    def specials(self, dtype: str) -> list[np.ndarray]:
        """Gives the points that are worth a try before all others, such as all 0."""

    @abstractmethod
    def random(self, rng: np.random.Generator, count: int, dtype: str) -> np.ndarray:
        """Gives `count` random points, stacked along the first axis."""

    @abstractmethod
    def project(self, points: np.ndarray, dtype: str) -> np.ndarray:
        """Gives the points of the domain that are near to these, which may be stacked along further leading axes."""

    def contains(self, points: np.ndarray, dtype: str) -> bool:
        """Whether all points are of the domain, whatever their shape."""
        return np.array_equal(self.project(points, dtype), points, equal_nan=True)

    def simple(self, dtype: str) -> list[float]:
        """Gives the elements that a counterexample should rather be made of, the simplest first."""
        return [0.0, 1.0]

    def elements(self, dtype: str) -> SearchStrategy[float]:
        """Gives a Hypothesis strategy for one element."""
        from hypothesis import strategies

        return strategies.sampled_from(self.simple(dtype))

    def strategy(self, dtype: str = "float32") -> SearchStrategy[np.ndarray]:
        """Gives a Hypothesis strategy for points, for properties of one's own.

        Args:
            dtype: Float dtype of the points.
        """
        from hypothesis.extra.numpy import arrays

        kind = np.float64 if self.is_float else np.int64
        held = _numbers.numpy_dtype(self.dtype_in(dtype))
        points = arrays(kind, self.shape, elements=self.elements(dtype).map(kind))
        return points.map(lambda point: self.project(point, dtype).astype(held))


@dataclass(frozen=True)
class Floats(Domain):
    """Numbers of a range, each by itself."""

    low: float = -math.inf
    high: float = math.inf
    marks: tuple[float, ...] = ()
    extras: tuple[float, ...] = ()  # infinities and NaN

    @property
    def has_free_elements(self) -> bool:
        return True

    def _limits(self, dtype: str) -> tuple[float, float]:
        return _numbers.limits(dtype, max(self.low, -float_format(dtype).max), self.high)

    def _marks(self, dtype: str) -> np.ndarray:
        format = float_format(dtype)
        low, high = self._limits(dtype)
        magnitudes = (
            0.0, 1.0, 0.5, 2.0, format.eps, 1 - format.eps / 2, 1 + format.eps, format.smallest_normal, format.floor,
            math.ldexp(format.smallest_normal, 1 - format.precision), 1e-7, 1e-3, 17.0, 30.0, 89.0, 104.0, 710.0,
            format.exp_limit, format.sinh_limit, format.square_limit, 2 * format.square_limit, format.max,
        )  # fmt: skip
        found = [low, high, *self.marks, *magnitudes, *(-each for each in magnitudes)]
        inside = dict.fromkeys(each for each in found if low <= each <= high)
        return np.array([*self.extras, *_numbers.rounded(np.array(list(inside)), dtype, low, high)])

    def specials(self, dtype: str) -> list[np.ndarray]:
        low, high = self._limits(dtype)
        marks = self._marks(dtype)
        size = math.prod(self.shape)
        if not size:
            return [np.zeros(self.shape)]
        points = [np.full(self.shape, mark) for mark in marks]
        alternating = [marks, marks[::-1], np.array([low, high]), np.array([0.0, high]), np.array([1.0, 0.0])]
        points += [self.project(np.resize(each, size).reshape(self.shape), dtype) for each in alternating]
        for extra in self.extras:  # one among numbers that are harmless
            point = self.project(np.zeros(size), dtype)
            point[-1:] = extra
            points.insert(0, point.reshape(self.shape))
        ramp = np.linspace(0, 1, size) * (min(high, 10.0) - max(low, -10.0)) + max(low, -10.0)
        points.append(self.project(ramp.reshape(self.shape), dtype))
        if len(self.shape) > 1:  # one row like no other
            for odd, rest in ((0.0, 1.0), (high, 0.0), (low, 0.0)):
                point = np.full(self.shape, rest)
                point[0] = odd
                points.append(self.project(point, dtype))
        return points

    def random(self, rng: np.random.Generator, count: int, dtype: str) -> np.ndarray:
        format = float_format(dtype)
        low, high = self._limits(dtype)
        shape = (count, *self.shape)
        near = rng.uniform(max(low, min(high, 1) - 20.0), min(high, max(low, -1) + 20.0), shape)
        small = float(np.log2(format.smallest_normal)) - format.precision
        far = rng.choice([-1.0, 1.0], shape) * np.exp2(rng.uniform(small, math.log2(format.max), shape))
        marks = rng.choice(self._marks(dtype), shape)
        style = rng.integers(0, 7, (count, *([1] * len(self.shape))))
        some = rng.random(shape)
        chosen = np.select(
            [style == 0, style == 1, style == 2, style == 3, style == 4],
            [near, far, marks, np.where(some < 0.2, marks, near), np.where(some < 0.3, far, near)],
            np.where(some < 0.5, marks, far),
        )
        if self.shape and self.shape[-1] > 1:  # constant rows
            chosen = np.where(style == 5, np.broadcast_to(chosen[..., :1], shape), chosen)
        if self.low >= 0 or self.high <= 0:
            chosen = np.abs(chosen) if self.low >= 0 else -np.abs(chosen)
        return self.project(chosen, dtype)

    def project(self, points: np.ndarray, dtype: str) -> np.ndarray:
        low, high = self._limits(dtype)
        inside = _numbers.rounded(points, dtype, low, high)
        for extra in self.extras:
            inside = np.where(np.isnan(points) if math.isnan(extra) else points == extra, extra, inside)
        if math.nan in self.extras:
            return inside
        return np.where(np.isnan(inside), low if low > 0 else min(high, 0.0), inside)

    def simple(self, dtype: str) -> list[float]:
        low, high = self._limits(dtype)
        found = (0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 10.0, -10.0, 100.0, -100.0, 1000.0, -1000.0, low, high)
        return list(dict.fromkeys(each for each in found if low <= each <= high))

    def elements(self, dtype: str) -> SearchStrategy[float]:
        from hypothesis import strategies

        low, high = self._limits(dtype)
        width: Literal[16, 32, 64] = 16 if dtype == "float16" else 64 if dtype == "float64" else 32
        numbers = strategies.floats(low, high, width=width)
        return numbers.map(lambda x: float(_numbers.rounded(np.array(x), dtype, low, high)))


@dataclass(frozen=True)
class Rows(Domain):
    """Rows of numbers that belong together: probabilities that sum to 1, or vectors of length 1."""

    is_unit: bool = False

    @property
    def has_free_rows(self) -> bool:
        return True

    def _normal(self, points: np.ndarray) -> np.ndarray:
        points = points if self.is_unit else np.abs(points)
        size = np.sqrt(np.sum(points**2, -1, keepdims=True)) if self.is_unit else np.sum(points, -1, keepdims=True)
        first = np.zeros(points.shape)
        first[..., 0] = 1.0
        return np.where(size > 0, points / np.where(size > 0, size, 1.0), first)

    def specials(self, dtype: str) -> list[np.ndarray]:
        width = self.shape[-1]
        first = np.zeros(width)
        first[0] = 1.0
        rows = [first, first[::-1], np.ones(width), np.resize([1.0, 0.0], width), np.exp2(-8.0 * np.arange(width))]
        points = [self.project(np.broadcast_to(row, self.shape), dtype) for row in rows]
        if len(self.shape) > 1:
            turned = np.resize(np.eye(width), (math.prod(self.shape[:-1]), width)).reshape(self.shape)
            points.append(self.project(turned, dtype))
        return points

    def random(self, rng: np.random.Generator, count: int, dtype: str) -> np.ndarray:
        shape = (count, *self.shape)
        sharpness = np.exp(rng.uniform(-3, 5.5, (count, *([1] * len(self.shape)))))
        points = rng.normal(size=shape) if self.is_unit else np.exp(-sharpness * rng.exponential(size=shape))
        points = np.where(rng.random(shape) < rng.choice([0.0, 0.3, 0.8], sharpness.shape), 0.0, points)
        return self.project(points, dtype)

    def project(self, points: np.ndarray, dtype: str) -> np.ndarray:
        points = np.nan_to_num(np.clip(points, -1.0, 1.0))
        return _numbers.rounded(self._normal(points), dtype, -1.0 if self.is_unit else 0.0, 1.0)

    def contains(self, points: np.ndarray, dtype: str) -> bool:
        # A row that is brought to its sum again is rounded once more.
        return np.allclose(self.project(points, dtype), points, rtol=0, atol=2 * float_format(dtype).eps)


@dataclass(frozen=True)
class OneHot(Domain):
    """Rows with a single 1."""

    @property
    def has_free_rows(self) -> bool:
        return True

    def specials(self, dtype: str) -> list[np.ndarray]:
        rows = (math.prod(self.shape[:-1]), self.shape[-1])
        eye = np.eye(self.shape[-1])
        return [
            np.broadcast_to(eye[0], self.shape).copy(),
            np.broadcast_to(eye[-1], self.shape).copy(),
            np.resize(eye, rows).reshape(self.shape),
        ]

    def random(self, rng: np.random.Generator, count: int, dtype: str) -> np.ndarray:
        return np.eye(self.shape[-1])[rng.integers(0, self.shape[-1], (count, *self.shape[:-1]))]

    def project(self, points: np.ndarray, dtype: str) -> np.ndarray:
        rows: np.ndarray = np.eye(points.shape[-1])[np.argmax(np.nan_to_num(points), axis=-1)]
        return rows


@dataclass(frozen=True)
class Integers(Domain):
    """Whole numbers of a range, each by itself; rows may end in padding of 0."""

    low: int = 0
    high: int = 1
    is_padded: bool = False

    @property
    def has_free_elements(self) -> bool:
        return not self.is_padded

    def specials(self, dtype: str) -> list[np.ndarray]:
        size = max(math.prod(self.shape), 1)
        middle = [value for value in (0, 1) if self.low < value < self.high]
        points = [np.full(self.shape, value) for value in (self.low, self.high, *middle)]
        points.append(np.resize(np.arange(self.low, min(self.high, self.low + size) + 1), size).reshape(self.shape))
        if self.shape and self.shape[0] > 1:  # one row like no other
            point = np.full(self.shape, self.high)
            point[0] = self.low
            points.append(point)
        return [self.project(point, dtype) for point in points]

    def random(self, rng: np.random.Generator, count: int, dtype: str) -> np.ndarray:
        points = rng.integers(self.low, self.high + 1, (count, *self.shape))
        if self.is_padded:
            length = self.shape[-1]
            kept = rng.integers(0, length + 1, (*points.shape[:-1], 1))
            points = np.where(np.arange(length) < kept, np.maximum(points, 1), 0)
        elif self.high - self.low == 1:  # masks: rare ones as well as even ones
            share = rng.choice([0.05, 0.5, 0.95], (count, *([1] * len(self.shape))))
            points = np.where(rng.random(points.shape) < share, self.high, self.low)
        return self.project(points, dtype)

    def project(self, points: np.ndarray, dtype: str) -> np.ndarray:
        held = np.clip(np.rint(np.nan_to_num(points)), self.low, self.high)
        if self.is_padded:
            held = np.where(np.minimum.accumulate(held != 0, axis=-1), held, 0)
        return np.asarray(held, np.float64 if self.is_float else np.int64)

    def simple(self, dtype: str) -> list[float]:
        return list(dict.fromkeys(float(each) for each in (0, 1, self.low, self.high) if self.low <= each <= self.high))

    def elements(self, dtype: str) -> SearchStrategy[float]:
        from hypothesis import strategies

        return strategies.integers(self.low, self.high)


@dataclass(frozen=True)
class Fixed(Domain):
    """One point."""

    point: tuple[float, ...] = ()

    @property
    def is_single(self) -> bool:
        return True

    def _only(self) -> np.ndarray:
        return np.array(self.point, np.float64 if self.is_float else np.int64).reshape(self.shape)

    def specials(self, dtype: str) -> list[np.ndarray]:
        return [self.project(self._only(), dtype)]

    def random(self, rng: np.random.Generator, count: int, dtype: str) -> np.ndarray:
        return np.stack([self.project(self._only(), dtype)] * count)

    def project(self, points: np.ndarray, dtype: str) -> np.ndarray:
        if points.shape[points.ndim - len(self.shape) :] != self.shape:
            return self._only()  # a part of it is another point
        only = np.broadcast_to(self._only(), points.shape)
        return only.astype(_numbers.numpy_dtype(self.dtype_in(dtype))).astype(only.dtype)


@dataclass(frozen=True)
class Positive(Floats):
    """Numbers above 0: 0 itself and the subnormal ones, which kernels read as 0, are none."""

    def _limits(self, dtype: str) -> tuple[float, float]:
        return _numbers.limits(dtype, float_format(dtype).smallest_normal, self.high)
