"""`nanguard explain`: the catalogue, in the terminal."""

from __future__ import annotations

from nanguard import hazards


def explain(name: str | None) -> int:
    """Prints one hazard, or the list of all."""
    print(hazards.listing() if name is None else hazards.explain(hazards.get(name)))
    return 0
