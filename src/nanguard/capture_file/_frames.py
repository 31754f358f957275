"""Stacks and source lines in a capture file: the user's own with their text, a library's by function name alone."""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable
from typing import Any

from nanguard.backend.stored import StoredFrame
from nanguard.capture_file._zip import Reader, Writer

Line = tuple[str, int, str]
_LIBRARY = "<library>"  # no file has this name, and no one takes it for the user's


class FrameWriter:
    """Numbers frames and stacks, each written once.

    Args:
        is_users: Whether a file holds the user's own code.
    """

    def __init__(self, is_users: Callable[[str], bool]) -> None:
        self._is_users = is_users
        self._files: dict[str, int] = {}
        self._known: dict[Line, int] = {}
        self._frames: dict[tuple[int, int, str], int] = {}
        self._stacks: dict[tuple[int, ...], int] = {}

    def line(self, line: Line) -> int:
        """The number of one frame."""
        known = self._known.get(line)
        if known is not None:
            return known
        file, number, function = line
        place = self._files.setdefault(file, len(self._files)) if self._is_users(file) else -1
        key = (place, int(number) if place >= 0 else 0, function)
        known = self._known[line] = self._frames.setdefault(key, len(self._frames))
        return known

    def stack(self, lines: list[Line]) -> int:
        """The number of a stack."""
        key = tuple(self.line(line) for line in lines)
        return self._stacks.setdefault(key, len(self._stacks))

    def write(self, archive: Writer) -> dict[str, Any]:
        """Writes the sources, and gives the rest as JSON."""
        for file, place in self._files.items():
            text = "".join(linecache.getlines(file))
            archive.add(f"sources/{place}.txt", text.encode("utf-8", "backslashreplace"))
        return {
            "files": [_shown(file) for file in self._files],
            "frames": [list(frame) for frame in self._frames],
            "stacks": [list(stack) for stack in self._stacks],
        }


def _shown(file: str) -> str:
    """The file as a report shows it: below the working directory without the way there."""
    is_below = os.path.isabs(file) and os.path.abspath(file).startswith(os.path.join(os.getcwd(), ""))
    return os.path.relpath(file) if is_below else file


class FrameReader:
    """Frames and stacks by number; makes the sources known to whoever asks for a line.

    Args:
        archive: The file.
        table: What `FrameWriter.write` gave.
    """

    def __init__(self, archive: Reader, table: dict[str, Any]) -> None:
        files = [str(file) for file in table["files"]]
        for place, file in enumerate(files):
            text = archive.read(f"sources/{place}.txt").decode("utf-8")
            lines = cleaned(text).splitlines(keepends=True)
            # An entry without a time of change is never compared with a file, and one without lines is one, too:
            # else a report would show what stands in a file of that name here.
            linecache.cache[file] = (len(text), None, lines, file)
        self.lines: list[Line] = []
        for place, number, function in table["frames"]:
            file = files[place] if 0 <= place < len(files) else _LIBRARY
            self.lines.append((file, int(number), str(function)))
        stored = [StoredFrame(*line) for line in self.lines]
        self.stacks = [[stored[_place(frame, stored)] for frame in stack] for stack in table["stacks"]]

    def line(self, number: int) -> Line:
        """A frame by its number."""
        return self.lines[_place(number, self.lines)]

    def stack(self, number: int) -> list[StoredFrame]:
        """A stack by its number."""
        return self.stacks[_place(number, self.stacks)]


def _place(number: Any, things: list[Any]) -> int:
    if not isinstance(number, int) or not 0 <= number < len(things):
        raise ValueError(f"{number!r} is no place in a table of {len(things)}")
    return number


def cleaned(text: str) -> str:
    """Text without characters that a terminal obeys."""
    return "".join(c if c.isprintable() or c in "\n\r\t\f" else "\ufffd" for c in text)
