"""Data that cannot bring a NaN: told of, repaired, set aside, and the repair shipped inside the model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanguard.clean.cleaning import Cleaning, clean, scan
    from nanguard.clean.engines import BeamEngine, DaskEngine
    from nanguard.clean.layer import Cleaner
    from nanguard.clean.options import Options
    from nanguard.clean.profile import Profile
    from nanguard.clean.quarantine import restore
    from nanguard.clean.recipe import Recipe

__all__ = [
    "BeamEngine",
    "Cleaner",
    "Cleaning",
    "DaskEngine",
    "Options",
    "Profile",
    "Recipe",
    "clean",
    "restore",
    "scan",
]

# The layer needs TensorFlow, the functions the readers of files; each is loaded when it is first touched.
_HOMES = {
    "BeamEngine": "engines",
    "Cleaner": "layer",
    "Cleaning": "cleaning",
    "DaskEngine": "engines",
    "Options": "options",
    "Profile": "profile",
    "Recipe": "recipe",
    "clean": "cleaning",
    "restore": "quarantine",
    "scan": "cleaning",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"nanguard.clean.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'nanguard.clean' has no attribute {name!r}")
