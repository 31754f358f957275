"""The examples in the docstrings run, and every public op, loss and test helper has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard
from nanguard import clipping, hazards, losses, ops, testing

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(nanguard.__path__, "nanguard.") if "__main__" not in module.name
)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Not called by a user as they are: what a test catches, what classes are made of, what the registry holds.
NO_EXAMPLE = {"FunctionLoss", "NonFiniteAssertion", "OpRecord"}
PUBLIC = [
    pytest.param(getattr(room, name), id=f"{room.__name__.partition('.')[2]}.{name}")
    for room in (ops, losses, clipping, testing)
    for name in dir(room)
    if not name.startswith("_") and callable(getattr(room, name)) and name not in NO_EXAMPLE
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """What an example shows is what it gives."""
    module = importlib.import_module(name)
    scope = {**vars(module), "np": np, "tf": tf, "keras": keras, "ng": nanguard}
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=scope):
        runner.run(example)
    assert runner.failures == 0


@pytest.mark.parametrize("public", PUBLIC)
def test_public_docstring(public: object) -> None:
    """A public name says what it gives and shows an example, and names each of its arguments."""
    doc = inspect.getdoc(public) or ""
    assert ">>> " in doc
    for argument in inspect.signature(public).parameters if inspect.isfunction(public) else ():
        assert re.search(rf"^\s+\**{argument}(, \w+)*:|^\s+(\w+, )+{argument}(, \w+)*:", doc, re.MULTILINE), argument


@pytest.mark.parametrize("public", PUBLIC)
def test_hazards_in_docstrings(public: object) -> None:
    """A docstring calls each hazard by its code and name, and an op's names those that it cures, in that order."""
    named = re.findall(r"(NG\d{3}) ([a-z0-9-]+)", inspect.getdoc(public) or "")
    for code, name in named:
        assert hazards.get(code).name == name
    record = next((record for record in ops.OPS.values() if record.function is public), None)
    if record is not None:
        assert [code for code, _ in named] == [hazard.code for hazard in record.cures]


def test_reference_pages() -> None:
    """docs/ops.md and docs/losses.md are what `make reference` writes now."""
    script = Path(__file__).parents[1] / "tools" / "reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
