"""Surveys of tables that one process is too slow for: the same object, filled by many and merged."""

from __future__ import annotations

from nanguard.clean.engines._beam import BeamEngine
from nanguard.clean.engines._dask import DaskEngine

__all__ = ["BeamEngine", "DaskEngine"]
