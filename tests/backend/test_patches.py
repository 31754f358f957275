"""Wrappers around methods go on and off in any order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from nanguard.backend.patches import Patches


class Greeter:
    def greet(self) -> str:
        """Says hello."""
        return "hello"


def saying(word: str) -> Callable[[Any], Any]:
    return lambda method: lambda self: f"{word}({method(self)})"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_each_goes_alone(order: tuple[int, ...]) -> None:
    """Whoever goes first takes off its own wrapper only, and at the end the very method is back."""
    original = Greeter.__dict__["greet"]
    owners = [Patches() for _ in range(3)]
    for patches, word in zip(owners, "abc", strict=True):
        patches.wrap(Greeter, "greet", saying(word))
    assert Greeter().greet() == "c(b(a(hello)))"
    assert Greeter.greet.__doc__ == "Says hello."
    left = ["a", "b", "c"]
    for place in order:
        owners[place].remove()
        left.remove("abc"[place])
        expected = "hello"
        for word in left:
            expected = f"{word}({expected})"
        assert Greeter().greet() == expected
    assert Greeter.__dict__["greet"] is original


def test_one_owner_may_wrap_twice() -> None:
    """Two wrappers of one owner around one method go together; removing nothing is no error."""
    patches = Patches()
    patches.remove()
    patches.wrap(Greeter, "greet", saying("a"))
    patches.wrap(Greeter, "greet", saying("b"))
    assert patches
    assert patches.has("greet")
    assert Greeter().greet() == "b(a(hello))"
    patches.remove()
    assert not patches
    assert Greeter().greet() == "hello"
