"""How many threads linear algebra and scikit-learn's trees take."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any


def one() -> contextlib.AbstractContextManager[object]:
    """A context in which the libraries that are loaded take one thread each.

    It needs threadpoolctl, which comes with scikit-learn; without it nothing is changed. Our matrices are small and
    many. Threads that wait for each other at each of them cost more than they give: on two busy cores, twenty times
    the time.
    """
    try:
        threadpoolctl: Any = importlib.import_module("threadpoolctl")
    except ModuleNotFoundError:
        return contextlib.nullcontext()
    limited: contextlib.AbstractContextManager[object] = threadpoolctl.threadpool_limits(1)
    return limited
