"""Finds where a TensorFlow or Keras training turned NaN, and why, and has the ops and losses that do not.

Importing this package loads no TensorFlow; each room below it is loaded when it is first touched.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "Incident": "nanguard.findings",
    "NanguardError": "nanguard.errors",
    "NonFiniteError": "nanguard.errors",
    "ReplayError": "nanguard.errors",
    "Report": "nanguard.report",
    "UsageError": "nanguard.errors",
}
_ROOMS = ("hazards", "losses", "ops", "report", "testing")

__all__ = [
    "Incident",
    "NanguardError",
    "NonFiniteError",
    "ReplayError",
    "Report",
    "UsageError",
    "__version__",
    "hazards",
    "losses",
    "ops",
    "report",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"nanguard.{name}")
    raise AttributeError(f"module 'nanguard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_with_keras() -> None:
    """Has Keras know the ops and losses, so that a saved model loads; a Keras that is not loaded is left alone."""
    if {"keras", "tensorflow"} <= sys.modules.keys():
        for room in ("ops", "losses"):
            import_module(f"nanguard.{room}")


_register_with_keras()
