"""What becomes of a step that was refused: it is run again and explained, and it and its batch are kept on disk."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from nanguard import capture_file
from nanguard.errors import NanguardError
from nanguard.guard import diagnosis, source
from nanguard.guard.batches import bad_rows
from nanguard.guard.event import Event
from nanguard.guard.quarantine import Quarantine


class Keeping:
    """Explains and keeps refused steps.

    Args:
        folder: Where batches and captures go; None or False for nowhere.
        num_explained: How many steps are run again and explained.
    """

    def __init__(self, folder: str | os.PathLike[str] | bool | None, num_explained: int) -> None:
        self.folder = Path(folder) if folder else None  # type: ignore[arg-type]
        self.num_explained = num_explained
        self.num_lost = 0  # batches that only the device has seen
        self.num_kept = 0
        self._quarantine: Quarantine | None = None

    def investigate(self, event: Event, batch: Any, again: Callable[[], Any] | None) -> None:
        """Finds out about a refused step, and keeps it; fills in the event.

        Args:
            event: What is known of it.
            batch: What it was run on, or None where only the device knows it.
            again: Runs it once more under the watch; gives the capture or None, and whether it failed again. None where
                that cannot be.
        """
        capture = None
        if again is not None and batch is not None and self.num_explained > 0 and not event.corrupt:
            self.num_explained -= 1
            capture, event.reproduced = again()
            if capture is not None:
                capture.step = event.step
                event.incident = self._explained(capture, event)
                event.rows = getattr(event.incident, "rows", None)
        if batch is None:
            self.num_lost += 1
            return
        if event.rows is None:
            event.rows = bad_rows(batch)
        if self.folder is not None and not event.corrupt:
            self._keep(event, batch, capture)

    def _explained(self, capture: Any, event: Event) -> Any:
        try:
            incident = diagnosis.explained(capture)
        except (NanguardError, tf.errors.OpError) as error:
            event.why = f"the replay failed: {error}"
            return None
        if incident is not None:
            incident.action = "skipped"
        return incident

    def _keep(self, event: Event, batch: Any, capture: Any) -> None:
        assert self.folder is not None
        if self._quarantine is None:
            self._quarantine = Quarantine(self.folder)
        if capture is not None:
            path = self.folder / f"step-{event.step:08d}-{os.getpid()}.capture"
            for number in itertools.count(2):  # steps that are refused do not count on
                if not path.exists():
                    break
                path = path.with_name(f"step-{event.step:08d}-{os.getpid()}-{number}.capture")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                about = capture_file.About(os.path.basename(sys.argv[0]), event.step)
                capture_file.save(capture, str(path), is_users=source.is_users, about=about, force=True)
                event.capture = str(path)
            except (NanguardError, OSError) as error:
                event.why = f"no capture was written: {error}"
        incident = event.incident
        kept = self._quarantine.put(
            batch,
            step=event.step,
            epoch=event.epoch,
            rows=None if event.rows is None else list(event.rows),
            cause=getattr(incident, "cause", None),
            why=getattr(incident, "summary", None) or event.why or "",
            seen_in=list(event.seen_in),
            capture=event.capture,
        )
        event.quarantined = None if kept is None else str(kept)
        self.num_kept += kept is not None

    def advice(self, event: Event, events: list[Event]) -> list[str]:
        """What a user can do about it: the diagnosis, and the next command."""
        told = next((each for each in reversed([*events, event]) if each.incident is not None), None)
        lines = []
        if told is not None and diagnosis.describe is not None:
            lines.append(diagnosis.describe(told.incident))
        kept = next((each.capture for each in reversed([*events, event]) if each.capture is not None), None)
        if kept is not None:
            lines.append(f"To run the failed step again: nanguard replay {kept}")
        return lines

    def summary(self) -> str:
        """Where the batches are, for the last line."""
        told = f"; the batches are in {self.folder}" if self.num_kept else ""
        if self.num_lost:
            told += f"; {self.num_lost} batches could not be kept: only the device has seen them"
        return told
