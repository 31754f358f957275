"""The report of one run, and the JSON that is made from it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from nanguard.findings import Incident

SCHEMA_NAME = "nanguard.report/1"

Verdict = Literal["finite", "nonfinite", "diverged", "crashed"]


@dataclass(frozen=True)
class Report:
    """What one watched run of a script gave.

    Args:
        script: The script or module as the command line named it.
        script_exit: Exit code that the script ended with by itself; 1 if an incident stopped it; None in a report that
            was written before the script ended, such as one left behind by a process that was killed.
        steps: Optimizer steps that the watch saw.
        incidents: What was found, in the order of the steps.
        notes: Remarks about healthy things, such as a metric that is infinite.
        watched: Whether the watch was installed; False where the script imported no TensorFlow, or one that cannot be
            watched.

    Example:

    >>> Report(script="train.py", script_exit=0, steps=412).verdict
    'finite'
    """

    script: str
    script_exit: int | None
    steps: int
    incidents: tuple[Incident, ...] = ()
    notes: tuple[str, ...] = ()
    watched: bool = True

    @property
    def verdict(self) -> Verdict:
        """The run in one word.

        `diverged` and `nonfinite` mean that there was an incident, `crashed` that there was none but the script did not
        end with exit code 0, `finite` that all was well.
        """
        if self.incidents:
            return "diverged" if self.incidents[0].born_in == "divergence" else "nonfinite"
        return "finite" if self.script_exit == 0 else "crashed"

    def to_json(self) -> dict[str, Any]:
        """Gives the report as plain dicts, lists and numbers that `report.schema()` describes.

        JSON has no number for NaN or infinity: they are written as the strings `NaN`, `Infinity` and `-Infinity`, which
        Python's `float` and JavaScript's `Number` read.
        """
        return {
            "schema": SCHEMA_NAME,
            "verdict": self.verdict,
            "script": self.script,
            "script_exit": self.script_exit,
            "steps": self.steps,
            "watched": self.watched,
            "notes": list(self.notes),
            "incidents": [_plain(incident.to_json()) for incident in self.incidents],
        }


def schema(of: Literal["report", "scan", "cleaning"] = "report") -> dict[str, Any]:
    """Gives the JSON Schema (draft 2020-12) of what a command writes, as it is shipped in the package.

    Args:
        of: "report" for `nanguard run` and `replay`, "scan" and "cleaning" for `nanguard scan` and `clean`.

    Example:

    >>> schema()["properties"]["schema"]["const"], schema("scan")["title"]
    ('nanguard.report/1', 'nanguard scan')
    """
    text = files("nanguard.report").joinpath(f"{of}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    # NumPy's scalars and arrays, told by what they can do, so that this room loads no NumPy.
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
