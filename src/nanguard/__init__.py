"""Finds where a TensorFlow or Keras training turned NaN, and why, and has the ops and losses that do not.

Importing this package loads no TensorFlow; each room below it is loaded when it is first touched.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "Checkpoint": "nanguard.guard.checkpoint",
    "Guard": "nanguard.guard.callback",
    "GuardedOptimizer": "nanguard.guard.optimizer",
    "Incident": "nanguard.findings",
    "NanguardError": "nanguard.errors",
    "NonFiniteError": "nanguard.errors",
    "ReplayError": "nanguard.errors",
    "Report": "nanguard.report",
    "UsageError": "nanguard.errors",
}
_ROOMS = ("clean", "clipping", "hazards", "losses", "ops", "report", "testing")

__all__ = [
    "Checkpoint",
    "Guard",
    "GuardedOptimizer",
    "Incident",
    "NanguardError",
    "NonFiniteError",
    "ReplayError",
    "Report",
    "UsageError",
    "__version__",
    "clean",
    "clipping",
    "hazards",
    "losses",
    "ops",
    "report",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name == "Guard":
        _let_guards_explain()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"nanguard.{name}")
    raise AttributeError(f"module 'nanguard' has no attribute {name!r}")


def _let_guards_explain() -> None:
    """Brings together two rooms that do not know each other: a guard leaves captures, the replay explains them."""
    diagnosis: Any = import_module("nanguard.guard.diagnosis")
    diagnosis.explain = lambda capture: import_module("nanguard.replay").explain(capture)
    diagnosis.describe = lambda incident: import_module("nanguard.report").describe(incident)


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_with_keras() -> None:
    """Has Keras know ops, losses, clips and the cleaner, so that what is saved loads, if Keras is loaded at all."""
    if {"keras", "tensorflow"} <= sys.modules.keys():
        for room in ("ops", "losses", "clipping", "clean.layer"):
            import_module(f"nanguard.{room}")


_register_with_keras()
