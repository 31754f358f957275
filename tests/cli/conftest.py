"""Running the command as a process of its own, with the make-believe watch of driver.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.py")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment that scripts under test get: the tests' own, less what changes what Python prints."""
    dropped = ("PYTHON", "FAKE_", "COV", "COLUMNS", "KERAS_BACKEND")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**kept, "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}


def heed_interrupts() -> None:
    """Undoes what a shell does to the commands that it starts in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def python(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Gives a function that runs plain `python` with some arguments in `tmp_path`."""

    def run(*args: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            cwd=tmp_path,
            env={**environment, **extra},
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            preexec_fn=heed_interrupts,
        )

    return run


@pytest.fixture
def nanguard(python: Run) -> Run:
    """Gives a function that runs `nanguard` with some arguments in `tmp_path`; keywords are environment variables."""

    def run(*args: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        return python(str(DRIVER), *args, stdin=stdin, **extra)

    return run
