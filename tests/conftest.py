"""What the tests of several rooms share."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# TensorFlow's log lines are noise in every test that does not look at them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A busy machine is slow now and then; that is no failure of a law.
hypothesis.settings.register_profile("nanguard", deadline=None)
hypothesis.settings.load_profile("nanguard")


@pytest.fixture(scope="session")
def checked_report() -> Callable[[Any], dict[str, Any]]:
    """Gives a function that holds a report of any kind, or the file of one, against its schema and returns it."""
    from jsonschema import Draft202012Validator

    from nanguard import report

    kinds = [report.schema(kind) for kind in ("report", "scan", "cleaning")]
    for kind in kinds:
        Draft202012Validator.check_schema(kind)
    validators = {kind["properties"]["schema"]["const"]: Draft202012Validator(kind) for kind in kinds}

    def check(found: Any) -> dict[str, Any]:
        if isinstance(found, Path):
            found = json.loads(found.read_text(encoding="utf-8"))
        elif hasattr(found, "to_json"):
            found = json.loads(json.dumps(found.to_json(), allow_nan=False))
        validators[found["schema"]].validate(found)
        return dict(found)

    return check


# Files of minutes; the rest take seconds.
_SLOW_ROOMS = ("guard", "examples", "cli")


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the cases that `one_in` leaves to the long run, and begins with the files that take longest.

    The processes that share the tests then end at about the same time.
    """
    for item in items:
        mark = item.get_closest_marker("one_in")
        # By the name, so that of two parameters both take all their values.
        if mark is not None and zlib.crc32(item.nodeid.encode()) % mark.args[0]:
            item.add_marker(pytest.mark.long)
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in _SLOW_ROOMS)
