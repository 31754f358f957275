"""Has `assert_finite` hunt through the catalogue and all losses, and prints what it found and how long it took.

    python tools/hunts.py                 all
    python tools/hunts.py bad good        the examples of the catalogue alone
    python tools/hunts.py losses          all losses in float32, float16 and bfloat16

Exits with 1 if a `bad` was not found in five seconds, or a `good` or a loss was accused.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "testing"))

import keras
import snippets
import test_catalogue
import test_losses

from nanguard import hazards
from nanguard.testing import NonFiniteAssertion, assert_finite

Hunt = tuple[str, Callable[[], None]]


def examples(kind: str) -> Iterator[Hunt]:
    """The hunts through each hazard's `bad` or `good`."""
    for hazard in hazards.ALL:
        snippet = snippets.function_of(getattr(hazard, kind))
        is_fixed = kind == "good" and hazard.code in test_catalogue.GOOD_FOR_ITS_NUMBERS
        given = snippet.fixed if is_fixed else snippet.domains
        looks_at_gradients = kind == "good" and not is_fixed

        def hunt(snippet: Any = snippet, given: Any = given, gradients: bool = looks_at_gradients) -> None:
            assert_finite(snippet.function, *given, dtypes=["float32"], seconds=5, gradients=gradients)

        yield f"{hazard.code} {hazard.name}{' (its numbers)' if is_fixed else ''}", hunt


def losses() -> Iterator[Hunt]:
    """The hunts through all losses."""
    for name in test_losses.LOSSES:
        for dtype in ("float32", "float16", "bfloat16"):

            def hunt(name: str = name, dtype: str = dtype) -> None:
                y_true, y_pred = test_losses.OPERANDS.get(name, (test_losses.ANY, test_losses.ANY))
                assert_finite(test_losses.of(name, dtype), y_true=y_true, y_pred=y_pred, seconds=10)

            yield f"{name} {dtype}", hunt


def run(kind: str, hunts: Iterator[Hunt]) -> int:
    """Prints one line for each hunt and gives how many went wrong."""
    num_wrong = 0
    for name, hunt in hunts:
        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        try:
            hunt()
            found = "silent"
        except NonFiniteAssertion as failure:
            found = f"found {failure.hazard or 'not explained'} in the {failure.part}, {failure.mode}"
        is_wrong = (found == "silent") == (kind == "bad")
        num_wrong += is_wrong
        print(
            f"{kind:7}{name:52}{time.perf_counter() - start:6.2f} s  {found}{'  WRONG' if is_wrong else ''}", flush=True
        )
    return num_wrong


def main(kinds: list[str]) -> int:
    """Runs the hunts of some kinds, or all."""
    warnings.simplefilter("ignore")
    num_wrong = 0
    for kind in kinds or ["bad", "good", "losses"]:
        num_wrong += run(kind, losses() if kind == "losses" else examples(kind))
    print(f"{num_wrong} wrong." if num_wrong else "As it should be.")
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
