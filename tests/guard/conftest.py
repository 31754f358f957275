"""A watch over the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


class Stopped(SystemExit):
    """What the tests stop a training with: an exit, as the command's."""


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
    assert not [note for note in found.watch.notes if "not watched" in note]  # an error of the watch's own
