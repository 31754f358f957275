"""All hazards together, and the ways to look one up."""

from __future__ import annotations

import difflib

from nanguard.errors import UnknownHazardError
from nanguard.hazards import data, domain, gradient, overflow, precision, reduction, training
from nanguard.hazards._hazard import ANY_OP, Hazard, Phase

FAMILIES: dict[str, tuple[Hazard, ...]] = {
    "domain": domain.HAZARDS,
    "overflow": overflow.HAZARDS,
    "gradient": gradient.HAZARDS,
    "precision": precision.HAZARDS,
    "reduction": reduction.HAZARDS,
    "training": training.HAZARDS,
    "data": data.HAZARDS,
}

_SPECIFIC_FIRST = tuple(hazard for family in FAMILIES.values() for hazard in family)

ALL: tuple[Hazard, ...] = tuple(sorted(_SPECIFIC_FIRST, key=lambda hazard: hazard.code))

_BY_KEY = {key.lower(): hazard for hazard in ALL for key in (hazard.code, hazard.name)}


def get(code_or_name: str) -> Hazard:
    """Gives a hazard by its code or name, in upper or lower case.

    Raises:
        UnknownHazardError: If there is none; the message names the nearest.

    Example:

    >>> get("NG101").name, get("log-of-nonpositive").code
    ('log-of-nonpositive', 'NG101')
    """
    key = code_or_name.strip().lower()
    if key in _BY_KEY:
        return _BY_KEY[key]
    nearest = [_BY_KEY[near] for near in difflib.get_close_matches(key, _BY_KEY, n=3, cutoff=0.5)]
    names = ", ".join(f"{hazard.code} {hazard.name}" for hazard in dict.fromkeys(nearest))
    way_out = f"Did you mean {names}?" if names else "`nanguard explain` lists all."
    raise UnknownHazardError(f"A hazard is named by its code or name. Received: {code_or_name}. {way_out}")


def for_op(op_type: str, phase: Phase) -> tuple[Hazard, ...]:
    """Gives the hazards that an op may give birth to in a phase, the most specific first.

    Those of any op come last. A hazard with regions is to be asked whether it was struck; one without is a pattern,
    and needs its own proof.

    Args:
        op_type: TensorFlow's type of the op; for the backward phase that of the forward op.
        phase: The phase of the birth.

    Example:

    >>> [hazard.code for hazard in for_op("Sqrt", "forward")]
    ['NG106', 'NG401']
    """
    in_phase = [hazard for hazard in _SPECIFIC_FIRST if phase in hazard.phases]
    own = tuple(hazard for hazard in in_phase if op_type in hazard.ops)
    return own + tuple(hazard for hazard in in_phase if ANY_OP in hazard.ops)
