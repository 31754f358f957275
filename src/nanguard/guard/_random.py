"""The random state of Python, NumPy and TensorFlow's eager mode: kept, compared and put back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from nanguard.backend import training


def state() -> dict[str, Any]:
    """Gives the state of each generator of the process; what has none is left out."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(gauss)),
    }
    eager = training.eager_random()
    if eager is not None:
        found["tensorflow"] = eager.getstate()
    return found


def put(wanted: dict[str, Any]) -> None:
    """Puts each generator into the state that it had."""
    if "python" in wanted:
        random.setstate(wanted["python"])
    if "numpy" in wanted:
        kind, keys, *rest = wanted["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    eager = training.eager_random()
    if "tensorflow" in wanted and eager is not None:
        eager.setstate(wanted["tensorflow"])
