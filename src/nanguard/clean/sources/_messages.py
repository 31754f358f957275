"""Words for messages: short, and on one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_MOST = 200


def reason(error: BaseException) -> str:
    """What an error says, without the frame that TensorFlow puts around it; ends with a full stop."""
    text = str(getattr(error, "message", None) or error)
    text = re.sub(r"\{\{function_node .*?\}\}|\[Op:\w+\]( name:)?|\[\[\{\{node .*", "", text, flags=re.DOTALL)
    text = text.partition("Traceback (most recent call last)")[0]
    text = " ".join(text.split())
    return (text if len(text) <= _MOST else text[: _MOST - 3] + "...").rstrip(".") + "."


def shown(value: Any) -> str:
    """A value as it is written in Python."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Sequence[str], most: int = 12) -> str:
    """Some names, and how many more there are."""
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
