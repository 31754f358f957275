"""How a clip is named where one is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable

from nanguard.clipping._clip import Clip
from nanguard.clipping.adagc import AdaGC
from nanguard.clipping.agc import AGC
from nanguard.clipping.autoclip import AutoClip
from nanguard.clipping.fixed import ClipByGlobalNorm
from nanguard.clipping.stable_adamw import StableAdamW
from nanguard.clipping.zclip import ZClip
from nanguard.errors import UsageError

_NAMED: dict[str, Callable[[], Clip]] = {
    "agc": AGC,
    "autoclip": AutoClip,
    "zclip": ZClip,
    "adagc": AdaGC,
    "stable_adamw": StableAdamW,
}


def get(spec: Clip | float | str | None) -> Clip | None:
    """Gives the clip that is meant.

    Args:
        spec: A clip; a positive number, for `ClipByGlobalNorm`; the name of a kind that needs no number: "agc",
            "autoclip", "zclip", "adagc", "stable_adamw"; or None for none.

    Returns:
        The clip, or None.

    Raises:
        UsageError: If it is none of these.

    Example:

    >>> get(1.0), get("agc"), get(None)
    (ClipByGlobalNorm(limit=1.0), AGC(clipping=0.01, epsilon=0.001, exclude=[]), None)
    """
    if spec is None or isinstance(spec, Clip):
        return spec
    if isinstance(spec, str) and spec in _NAMED:
        return _NAMED[spec]()
    if isinstance(spec, int | float) and not isinstance(spec, bool) and spec > 0 and math.isfinite(spec):
        return ClipByGlobalNorm(spec)
    raise UsageError(
        f"`clip` must be a clip of nanguard.clipping, a positive number or one of {', '.join(_NAMED)}. Received: "
        f"clip={spec!r}. For clipping by the global norm, give its limit: clip=1.0."
    )
