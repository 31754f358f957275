"""A watch over the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


class Stopped(Exception):
    """What the tests stop a training with, as the command does with an exit."""


class Watched:
    """A watch with what it captured. It stops a training at an incident, and forgets what is none."""

    Stopped = Stopped

    def __init__(self) -> None:
        from nanguard.guard import Watch

        self.watch = Watch(self._on_capture)
        self.captures: list[Any] = []  # those that are incidents
        self.forgotten: list[Any] = []
        self.is_judging = False  # replays a capture to tell whether it is an incident; without, each one is

    def _on_capture(self, capture: Any) -> bool:
        if self.is_judging:
            from nanguard import replay

            if replay.explain(capture) is None:
                self.forgotten.append(capture)
                return False
        self.captures.append(capture)
        raise Stopped(f"step {capture.step}: {capture.seen_in}")


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A watch that is on for one test."""
    found = Watched()
    found.watch.arm()
    try:
        yield found
    finally:
        found.watch.disarm()
    assert found.watch.problem is None
