"""Has `assert_finite` hunt through the catalogue, all losses and all ops; prints what it found and how long it took.

    python tools/hunts.py                 all
    python tools/hunts.py bad good        the examples of the catalogue alone
    python tools/hunts.py losses ops      all losses and ops in float32, float16 and bfloat16
    python tools/hunts.py ops norm std    some of them, by name

Exits with 1 if a `bad` was not found in five seconds, or a `good`, a loss or an op was accused.
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
import tensorflow as tf
import test_hunts
import test_silent_losses

from nanguard import hazards, ops
from nanguard import losses as ng_losses
from nanguard.testing import NonFiniteAssertion, assert_finite, domains

Hunt = tuple[str, Callable[[], None]]
KINDS = ("bad", "good", "losses", "ops")
DTYPES = ("float32", "float16", "bfloat16")
MATRICES = (domains.any_float((3, 3), low=-100, high=100),)

# Ops that take other operands than arrays of any floats, and how they are called.
OPERANDS: dict[str, tuple[domains.Domain, ...]] = {
    "cholesky": MATRICES,
    "eigh": MATRICES,
    "logdet": MATRICES,
    "svd": MATRICES,
    "kl_categorical": (domains.probabilities((4, 3)), domains.probabilities((4, 3))),
    "stft_magnitude": (domains.any_float((2, 16), low=-100, high=100),),
}
CALLS: dict[str, Callable[..., Any]] = {
    "magnitude": lambda real, imaginary: ops.magnitude(tf.complex(real, imaginary)),
    "select": lambda x: ops.select(x > 0.01, tf.math.log, x),
    "stft_magnitude": lambda signals: ops.stft_magnitude(signals, 8, 4),
}


def examples(kind: str) -> Iterator[Hunt]:
    """The hunts through each hazard's `bad` or `good`."""
    for hazard in hazards.ALL:
        snippet = snippets.function_of(getattr(hazard, kind))
        is_fixed = kind == "good" and hazard.code in test_hunts.GOOD_FOR_ITS_NUMBERS
        given = snippet.fixed if is_fixed else snippet.domains
        looks_at_gradients = kind == "good" and test_hunts.looks_at_gradients(hazard)

        def hunt(snippet: Any = snippet, given: Any = given, gradients: bool = looks_at_gradients) -> None:
            assert_finite(snippet.function, *given, dtypes=["float32"], seconds=5, gradients=gradients)

        yield f"{hazard.code} {hazard.name}{' (its numbers)' if is_fixed else ''}", hunt


def losses() -> Iterator[Hunt]:
    """The hunts through all losses."""
    for name in test_silent_losses.LOSSES:
        for dtype in DTYPES:

            def hunt(name: str = name, dtype: str = dtype) -> None:
                y_true, y_pred = test_silent_losses.OPERANDS.get(name, (test_silent_losses.ANY, test_silent_losses.ANY))
                assert_finite(test_silent_losses.of(name, dtype), y_true=y_true, y_pred=y_pred, seconds=10)

            yield f"{name} {dtype}", hunt
    for dtype in DTYPES:
        bound = ng_losses.ELBO(dtype=dtype)

        def elbo(y_true: Any, output: Any, latent: Any, bound: Any = bound) -> Any:
            return bound(y_true, (output, latent))

        def hunt_elbo(dtype: str = dtype, elbo: Any = elbo) -> None:
            given = {
                "y_true": test_silent_losses.SHARES,
                "output": test_silent_losses.ANY,
                "latent": domains.any_float((4, 4)),
            }
            assert_finite(elbo, dtypes=[dtype], **given)

        yield f"ELBO {dtype}", hunt_elbo

        def hunt_guarded(dtype: str = dtype) -> None:
            # The square of a number beyond the square root of the largest is infinite: such samples are left out.
            labels = domains.any_float((test_silent_losses.ROWS, test_silent_losses.CLASSES), nan=True)
            assert_finite(ng_losses.Guarded(keras.losses.MeanSquaredError(dtype=dtype)), y_true=labels,
                          y_pred=test_silent_losses.ANY, dtypes=[dtype])  # fmt: skip

        yield f"Guarded {dtype}", hunt_guarded


def all_ops() -> Iterator[Hunt]:
    """The hunts through all ops."""
    for name, record in ops.OPS.items():
        for dtype in DTYPES:
            if name == "magnitude" and dtype != "float32":
                continue  # there are no complex numbers of half precision

            def hunt(name: str = name, dtype: str = dtype, record: Any = record) -> None:
                num_operands = 2 if name == "magnitude" else record.operands
                given = OPERANDS.get(name, (domains.any_float((4, 3)),) * num_operands)
                assert_finite(CALLS.get(name, record.function), *given, dtypes=[dtype], seconds=10)

            yield f"{name} {dtype}", hunt


def run(kind: str, hunts: Iterator[Hunt]) -> int:
    """Prints one line for each hunt and gives how many went wrong."""
    num_wrong = 0
    told: dict[str, str] = {}
    for name, hunt in hunts:
        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        try:
            hunt()
            found = "silent"
        except NonFiniteAssertion as failure:
            found = f"found {failure.hazard or 'not explained'} in the {failure.part}, {failure.mode}"
            if kind != "bad":
                told[name] = str(failure)
        except Exception as error:  # what only raises is no counterexample, and no proof either
            found = f"only raises {type(error).__name__}"
        is_wrong = (found == "silent") == (kind == "bad")
        num_wrong += is_wrong
        print(
            f"{kind:7}{name:52}{time.perf_counter() - start:6.2f} s  {found}{'  WRONG' if is_wrong else ''}", flush=True
        )
    for name, message in told.items():
        print(f"\n{name}\n{message}")
    return num_wrong


def main(words: list[str]) -> int:
    """Runs the hunts of some kinds, or all, and of them those of some names, or all."""
    warnings.simplefilter("ignore")
    names = [word for word in words if word not in KINDS]
    num_wrong = 0
    for kind in [word for word in words if word in KINDS] or KINDS:
        hunts = losses() if kind == "losses" else all_ops() if kind == "ops" else examples(kind)
        num_wrong += run(kind, (hunt for hunt in hunts if not names or hunt[0].split()[0] in names))
    print(f"{num_wrong} wrong." if num_wrong else "As it should be.")
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
