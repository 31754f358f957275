"""What one thread of the script is doing, as the hooks see it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from nanguard.capture import Forward


class Thread(threading.local):
    """What one thread is doing."""

    def __init__(self) -> None:
        self.is_busy = False  # nanguard itself is running ops
        self.layers: list[str] = []
        self.tapes: list[Any] = []
        self.applying = 0
        self.recorder: Any = None  # the Recorder of its eager ops
        self.forward: Forward | None = None

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """Around ops of nanguard's own: no hook sees them."""
        before, recorder = self.is_busy, self.recorder
        paused = recorder.is_paused if recorder is not None else False
        self.is_busy = True
        if recorder is not None:
            recorder.is_paused = True
        try:
            yield
        finally:
            self.is_busy = before
            if recorder is not None:
                recorder.is_paused = paused
