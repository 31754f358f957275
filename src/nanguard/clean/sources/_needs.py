"""Libraries that not everyone has: one line says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from nanguard.errors import UsageError

_EXTRAS = {"pyarrow": "data", "narwhals": "data", "tensorflow": "tf", "keras": "tf"}


def need(module: str) -> Any:
    """Imports a module.

    Raises:
        UsageError: If its library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        extra = _EXTRAS.get(library, "data")
        raise UsageError(f'This needs {library}, which is not installed: pip install "nanguard[{extra}]"') from error
