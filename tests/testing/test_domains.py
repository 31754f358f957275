"""Each domain gives points of its own, and finds its way back from any other."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest

from nanguard.errors import UsageError
from nanguard.testing import _numbers, domains

EVERY = {
    "any_float": domains.any_float((3, 4)),
    "range": domains.any_float((3, 4), low=0.3, high=0.7),
    "extended": domains.any_float((3, 4), infinities=True, nan=True),
    "positive": domains.positive((3, 4)),
    "logits": domains.logits((3, 4)),
    "images": domains.images((2, 4, 4, 1), high=255.0),
    "probabilities": domains.probabilities((3, 4)),
    "independent": domains.probabilities((3, 4), independent=True),
    "unit_vectors": domains.unit_vectors((3, 4)),
    "one_hot": domains.one_hot(4, batch=3),
    "labels": domains.labels(5),
    "integers": domains.integers(-2, 9, shape=(2, 3)),
    "padded_ids": domains.padded_ids(6, shape=(3, 4)),
    "masks": domains.masks((5,)),
    "float_masks": domains.masks((3, 4), dtype=None),
    "fixed": domains.fixed([[0.5, 2.0]]),
    "scalar": domains.any_float(()),
    "empty": domains.any_float((0, 3)),
}
every_domain = pytest.mark.parametrize("domain", EVERY.values(), ids=EVERY)
every_dtype = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])


def is_held(points: np.ndarray, dtype: str) -> bool:
    """Whether a dtype holds each number exactly."""
    return np.array_equal(points.astype(_numbers.numpy_dtype(dtype)).astype(points.dtype), points, equal_nan=True)


@every_dtype
@every_domain
def test_points_are_of_the_domain(domain: domains.Domain, dtype: str) -> None:
    """Special and random points have the shape, are held by the dtype, and belong to the domain."""
    points = [*domain.specials(dtype), *domain.random(np.random.default_rng(0), 50, dtype)]
    for point in points:
        assert point.shape == domain.shape
        assert is_held(point, domain.dtype_in(dtype))
        assert domain.contains(point, dtype)


@every_domain
def test_random_points_are_the_same_each_time(domain: domains.Domain) -> None:
    """A seed gives the same points again."""
    first, second = (domain.random(np.random.default_rng(3), 5, "float32") for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["any_float", "range", "probabilities", "one_hot", "labels", "padded_ids", "masks"])
def test_strategy(name: str) -> None:
    """The strategy gives points of the domain."""
    domain = EVERY[name]

    @hypothesis.settings(max_examples=20, database=None, deadline=None)
    @hypothesis.given(domain.strategy("float32"))
    def check(point: np.ndarray) -> None:
        assert point.shape == domain.shape
        kept = domain.project(point.astype(np.float64 if domain.is_float else np.int64), "float32")
        np.testing.assert_allclose(kept, point.astype(kept.dtype), rtol=1e-5)

    check()


def test_probabilities_saturate() -> None:
    """Exactly 0 and exactly 1 are among the probabilities, and rows sum to 1 as far as they are rounded."""
    points = np.stack(EVERY["probabilities"].specials("float32"))
    assert {0.0, 1.0} <= set(points.reshape(-1))
    np.testing.assert_allclose(points.sum(axis=-1), 1, atol=1e-6)


def test_rows_of_padding() -> None:
    """A row may be padding alone, and nothing follows padding."""
    points = np.concatenate([EVERY["padded_ids"].random(np.random.default_rng(0), 50, "float32")])
    assert (points == 0).all(axis=-1).any()
    assert not ((points[..., :-1] == 0) & (points[..., 1:] != 0)).any()


@every_dtype
def test_stepped(dtype: str) -> None:
    """One step up and one down is where it was; across 0 the signs change."""
    held = np.array([0.0, 1.0, -1.0, 100.0, -0.25], _numbers.numpy_dtype(dtype))
    up = _numbers.stepped(held, np.ones(5, np.int64))
    assert (up.astype(np.float64) > held.astype(np.float64)).all()
    np.testing.assert_array_equal(_numbers.stepped(up, -np.ones(5, np.int64)), held)
    assert float(_numbers.stepped(held[:1], np.array([-1]))[0]) < 0


@pytest.mark.parametrize(
    ("x", "dtype", "text"),
    [
        (0.0, "float32", "0.0"),
        (-0.0, "float32", "-0.0"),
        (float(np.float32(0.73)), "float32", "0.73"),
        (3.0, "float16", "3.0"),
        (float(np.float32(3.4028235e38)), "float32", "3.4028235e+38"),
        (float("nan"), "float32", "np.nan"),
        (float("-inf"), "float32", "-np.inf"),
    ],
)
def test_spelled(x: float, dtype: str, text: str) -> None:
    """A number is written as short as the dtype allows."""
    assert _numbers.spelled(x, dtype) == text


@every_dtype
def test_spelled_numbers_round_trip(dtype: str) -> None:
    """What is written reads as the same number."""
    for x in EVERY["any_float"].random(np.random.default_rng(0), 20, dtype).reshape(-1):
        assert float(np.array(float(_numbers.spelled(float(x), dtype))).astype(_numbers.numpy_dtype(dtype))) == x


def test_bad_ranges() -> None:
    """A range that is none, or a shape without a row, is refused."""
    with pytest.raises(UsageError, match="`low` must not be above"):
        domains.any_float(low=2, high=1)
    with pytest.raises(UsageError, match="`low` must not be above"):
        domains.integers(3, 2)
    with pytest.raises(UsageError, match="at least one axis"):
        domains.unit_vectors(())


def test_fixed_point_has_no_parts() -> None:
    """A part of a fixed point, or other numbers in its place, is no point of its domain."""
    domain = domains.fixed([0.0, 1.0])
    assert domain.contains(np.array([0.0, 1.0]), "float32")
    assert not domain.contains(np.array([0.0]), "float32")
    assert not domain.contains(np.array([1.0, 1.0]), "float32")


def test_infinities_stay_so() -> None:
    """Points of a domain with infinities hold them as such, next to numbers of the dtype."""
    points = domains.any_float((2,), infinities=True).specials("float16")
    assert {abs(x) for point in points for x in point if abs(x) > 65504.0} == {np.inf}
