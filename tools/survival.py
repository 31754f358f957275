"""Runs the scripts of tests/cases that diverge with a guard put into their `fit`, and with the best learning rate.

python tools/survival.py [--short] [--markdown docs/survival.md]

Each script runs unchanged but for one thing: `callbacks=[nanguard.Guard(on_nonfinite="rollback")]` in its `fit`, or a
learning rate that is multiplied by a power of 4. Compared is the loss of the final model on its own
training rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "cases"
FITS = ("dynamics_rate_too_high_fit", "dynamics_relu_rnn_fit", "data_raw_cancer_features_sgd")
# A guard's rollback holds on to the batches that `fit` pulls. In loops there is none; see docs/survival.md.
LOOPS = (
    "dynamics_rate_too_high_by_hand", "dynamics_rate_too_high_mirrored", "dynamics_scan_recurrence",
    "data_unix_timestamps",
)  # fmt: skip
EPOCHS = (1, 20)  # the script's own epochs, times these
EXPONENTS = range(0, -31, -2)
BAR = 1.05
TIMEOUT = 300.0  # seconds for one script


@dataclass(frozen=True)
class Ending:
    """How a script ended: the final loss, whether all weights are finite, and what the guard said of itself."""

    loss: float
    is_finite: bool
    told: str = ""


def run(case: str, *, epochs: int, exponents: Sequence[int] = (), guarded: bool = False) -> list[Ending]:
    """Runs a script in a process of its own: as it is, with a guard, or once for each rate."""
    command = [sys.executable, __file__, "--worker", case, "--epochs", str(epochs)]
    command += ["--guarded"] if guarded else []
    command += [f"--exponents={','.join(map(str, exponents))}"] if exponents else []
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"loss"')]
    if not found:
        raise RuntimeError(f"{case} gave no result:\n" + "\n".join(done.stderr.splitlines()[-15:]))
    return [Ending(**each) for each in found]


def work(case: str, *, epochs: int, exponent: int | None, guarded: bool) -> None:
    """Runs a script in this process, and prints how it ended."""
    import keras
    import numpy as np

    import nanguard

    plain = keras.Model.fit

    def fit(model: Any, *args: Any, **options: Any) -> Any:
        told = ""
        guard = nanguard.Guard(on_nonfinite="rollback", quarantine=None, verbose=False) if guarded else None
        options["epochs"] = options["epochs"] * epochs
        options["verbose"] = 0
        if exponent is not None:
            model.optimizer.learning_rate = float(model.optimizer.learning_rate) * 2.0**exponent
        try:
            plain(model, *args, callbacks=[guard] if guard else [], **options)
        except nanguard.NonFiniteError as error:
            told = str(error).splitlines()[0]
        if guard is not None:
            told = f"{guard.summary()} {told}".strip()
        loss = model.evaluate(*args, verbose=0, return_dict=True)["loss"]
        is_finite = all(bool(np.isfinite(weight).all()) for weight in model.get_weights())
        print(json.dumps({"loss": loss, "is_finite": is_finite, "told": told}), flush=True)

    keras.Model.fit = fit
    try:
        runpy.run_path(str(CASES / f"{case}.py"), run_name="__main__")
    finally:
        keras.Model.fit = plain


def row(case: str, epochs: int) -> tuple[str, bool]:
    """Gives a line of the table, and whether the bar was met."""
    plain = run(case, epochs=epochs)[0]
    guarded = run(case, epochs=epochs, guarded=True)[0]
    tuned = run(case, epochs=epochs, exponents=list(EXPONENTS))
    best = min((ending.loss, exponent) for ending, exponent in zip(tuned, EXPONENTS, strict=True) if _is_good(ending))
    ratio = guarded.loss / best[0]
    is_met = _is_good(guarded) and ratio <= BAR
    cells = [
        f"`{case}`", f"x {epochs}", _shown(plain), _shown(guarded), f"{best[0]:.4g} (rate x 2^{best[1]})",
        f"{ratio:.3f}" if math.isfinite(ratio) else "-", "pass" if is_met else "**miss**", guarded.told,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |", is_met


def _is_good(ending: Ending) -> bool:
    return ending.is_finite and math.isfinite(ending.loss)


def _shown(ending: Ending) -> str:
    return f"{ending.loss:.4g}" if ending.is_finite else "weights not finite"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; gives 0 if every bar was met, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="one script, its longer run")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="rewrite the table between this page's markers")
    parser.add_argument("--worker", metavar="CASE", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--exponents", help=argparse.SUPPRESS)
    parser.add_argument("--guarded", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        for exponent in options.exponents.split(",") if options.exponents else [None]:
            number = None if exponent is None else int(exponent)
            work(options.worker, epochs=options.epochs, exponent=number, guarded=options.guarded)
        return 0

    asked = [(FITS[0], EPOCHS[-1])] if options.short else [(case, epochs) for case in FITS for epochs in EPOCHS]
    rows = [row(case, epochs) for case, epochs in asked]
    head = "| script | its epochs | plain loss | guarded loss | best rate's loss | guarded / best | | the guard |"
    lines = [head, "|---|--:|--:|--:|--:|--:|---|---|", *(line for line, _ in rows)]
    lines += [f"| `{case}` | | | | | | not run | a loop: no rollback |" for case in LOOPS]
    text = "\n".join(lines)
    print(text)
    if options.markdown:
        sys.path.insert(0, str(ROOT))
        from benchmarks.pages import write_section

        write_section(options.markdown, "survival", text)
    return 0 if all(is_met for _, is_met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
