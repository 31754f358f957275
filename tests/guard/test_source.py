"""Which lines are the user's own."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections import OrderedDict
from pathlib import Path

import pytest

import nanguard
from nanguard.guard import source

LIBRARY = sysconfig.get_paths()["purelib"]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (__file__, True),
        (os.path.join(os.sep, "home", "someone", "train.py"), True),
        ("train.py", True),  # relative to the working directory
        ("<stdin>", True),
        ("<string>", True),
        ("<ipython-input-3-0f>", True),
        ("<frozen importlib._bootstrap>", False),
        ("<__array_function__ internals>", False),
        (nanguard.__file__, False),
        (source.__file__, False),
        (os.path.join(LIBRARY, "keras", "src", "layers", "core", "dense.py"), False),
        (os.path.join(site.getusersitepackages(), "keras", "layer.py"), False),
        (os.path.join(sysconfig.get_paths()["stdlib"], "functools.py"), False),
        (os.path.join(os.sep, "opt", "other", "site-packages", "package", "module.py"), False),
        (os.path.join(os.sep, "usr", "lib", "python3", "dist-packages", "numpy", "core.py"), False),
        (os.path.join(os.sep, "tmp", "__autograph_generated_fileab12.py"), False),
    ],
)
def test_is_users(file: str, expected: bool):
    """A file is the user's unless it belongs to nanguard, to Python or to an installed package."""
    assert source.is_users(file) is expected


def test_script_among_installed_packages_is_the_users(monkeypatch: pytest.MonkeyPatch):
    """The script that runs is the user's wherever it lies."""
    script = os.path.join(LIBRARY, "somebody", "__main__.py")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    monkeypatch.setattr(source, "_known", {})
    assert source.is_users(script)
    assert not source.is_users(os.path.join(LIBRARY, "somebody", "else.py"))


def test_innermost_line_of_the_users():
    """The innermost line of the user's is found below frames of libraries; without any there is none."""

    class Noted(OrderedDict):
        def __missing__(self, key: str) -> object:
            return source.place(sys._getframe(0))

    def look() -> object:
        return source.place(sys._getframe(0))

    found = sorted([1], key=lambda _: look() is None)
    assert found == [1]
    code, line = look()  # type: ignore[misc]
    assert (code.co_filename, code.co_name) == (__file__, "look")
    text = Path(__file__).read_text(encoding="utf-8").splitlines()[line - 1]
    assert text.strip() == "return source.place(sys._getframe(0))"
    assert Noted()["key"][0].co_name == "__missing__"  # type: ignore[index]
    assert source.place(None) is None


def test_stack_goes_from_the_outermost_to_the_innermost():
    """A stack ends with the frame that was asked for."""

    def inner() -> list[tuple[str, int, str]]:
        return source.stack(sys._getframe(0))

    frames = inner()
    assert [name for _, _, name in frames[-2:]] == ["test_stack_goes_from_the_outermost_to_the_innermost", "inner"]
    assert source.stack(None) == []
