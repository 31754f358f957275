"""The order in which engines merge surveys."""

from __future__ import annotations

from typing import Any

import pytest

from nanguard.clean.engines import _merging


def pair(one: Any, other: Any) -> Any:
    """A merge that shows what was merged with what."""
    return (one, other)


def test_neighbours_are_merged_two_by_two() -> None:
    """What is left over at the end of a round waits for the next."""
    assert _merging.in_pairs([0], pair) == 0
    assert _merging.in_pairs([0, 1, 2, 3, 4], pair) == (((0, 1), (2, 3)), 4)
    assert _merging.in_pairs([0, 1, 2, 3, 4, 5, 6], pair) == (((0, 1), (2, 3)), ((4, 5), 6))


@pytest.mark.parametrize("run", [2, 16])
def test_runs_of_a_power_of_two_keep_the_pairs(run: int) -> None:
    """Merging runs first, and then in runs what comes of them, makes the pairs of merging all at once."""
    for number in (*range(1, 70), 256, 257, 1000):
        items = list(range(number))
        level: list[Any] = items
        while len(level) > 1:
            level = [_merging.in_pairs(level[start : start + run], pair) for start in range(0, len(level), run)]
        assert level == [_merging.in_pairs(items, pair)]
