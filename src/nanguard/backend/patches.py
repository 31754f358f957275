"""Methods of TensorFlow and Keras that are wrapped for a time, by several owners who come and go in any order."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

Wrap = Callable[[Any], Any]

# The wrappers around each method, the innermost first, beside what it was before any of them.
_wrapped: dict[tuple[Any, str], tuple[Any, list[tuple[object, Wrap]]]] = {}
# The last owner of a wrapper may be let go by the garbage collector, in the middle of a change.
_lock = threading.RLock()


class Patches:
    """The wrappers of one owner.

    A method is the original with all wrappers around it that were put on and not taken off yet, in the order in which
    they came: taking one off leaves those that came after it.
    """

    def __init__(self) -> None:
        self._places: list[tuple[Any, str]] = []

    def wrap(self, owner: Any, name: str, wrap: Wrap) -> None:
        """Puts a wrapper around a method.

        Args:
            owner: The class, module or object that has it.
            name: Its name there.
            wrap: Is given the method, and gives what to call in its place.
        """
        with _lock:
            place = (owner, name)
            if place not in _wrapped:
                _wrapped[place] = (owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name), [])
            _wrapped[place][1].append((self, wrap))
            self._places.append(place)
            _build(place)

    def has(self, name: str) -> bool:
        """Whether a method of this name is wrapped."""
        return any(name == wrapped for _, wrapped in self._places)

    def remove(self) -> None:
        """Takes off all wrappers of this owner."""
        with _lock:
            for place in dict.fromkeys(self._places):
                wraps = _wrapped[place][1]
                wraps[:] = [(patches, wrap) for patches, wrap in wraps if patches is not self]
                _build(place)
                if not wraps:
                    del _wrapped[place]
            self._places.clear()

    def __bool__(self) -> bool:
        return bool(self._places)


def _build(place: tuple[Any, str]) -> None:
    method, wraps = _wrapped[place]
    for _, wrap in wraps:
        method = functools.wraps(method)(wrap(method))
    setattr(*place, method)
