"""Runs the scripts of tests/cases that diverge with a guard, and with the best learning rate.

python tools/survival.py [--short] [--markdown docs/survival.md]

Each script runs unchanged but for one thing: a `nanguard.Guard(on_nonfinite="rollback")` among the callbacks of its
`fit` or around its step function, or a learning rate that is multiplied by a power of 2. Compared is the loss of the
final model on its own training rows; of a loop, the mean of what its step gave in the last epoch.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "cases"
FITS = ("dynamics_rate_too_high_fit", "dynamics_relu_rnn_fit", "data_raw_cancer_features_sgd")
EPOCHS = (1, 20)  # the script's own epochs, times these
EXPONENTS = range(0, -61, -1)
NUM_WORSE = 4  # rates in a row that end with twice the lowest loss or more, before lower ones are left out
BAR = 1.05
TIMEOUT = 900.0  # seconds for one script


@dataclass(frozen=True)
class Loop:
    """A script with a loop of its own.

    Args:
        step: Name of its step function.
        rate: The text in it that gives the learning rate, split around the number.
        epochs: The text that gives the number of epochs, likewise.
        num_batches: Steps of an epoch.
    """

    step: str
    rate: tuple[str, str, str]
    epochs: tuple[str, str, str]
    num_batches: int

    def changed(self, source: str, *, rate: float, epochs: int) -> str:
        """The script with another rate and more epochs."""
        for (before, number, behind), factor in ((self.rate, rate), (self.epochs, epochs)):
            text = before + number + behind
            if source.count(text) != 1:
                raise ValueError(f"{text!r} must be in the script once.")
            source = source.replace(text, f"{before}{number} * {factor}{behind}")
        return source


LOOPS = {
    "dynamics_rate_too_high_by_hand": Loop("train", ("learning_rate=", "3.0", ")"), ("range(", "60", ")"), 1),
    "dynamics_rate_too_high_mirrored": Loop("distributed_step", ("rate=", "1.0", " *"), (".repeat(", "4", ")"), 8),
    "dynamics_scan_recurrence": Loop("train_step", ("RMSprop(", "1e-3", ")"), ("i in range(", "3", ")"), 3),
    "data_unix_timestamps": Loop("step", ("lr = ", "1e-3", ""), ("epoch in range(", "5", ")"), 5),
}


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
    # What a progress bar has written before is on the same line.
    found = [json.loads(line[line.index('{"loss"') :]) for line in done.stdout.splitlines() if '{"loss"' in line]
    if not found:
        raise RuntimeError(f"{case} gave no result:\n" + "\n".join(done.stderr.splitlines()[-15:]))
    return [Ending(**each) for each in found]


def work(case: str, *, epochs: int, exponent: int | None, guarded: bool) -> Ending:
    """Runs a script in this process."""
    rate = 1.0 if exponent is None else 2.0**exponent
    return (work_loop if case in LOOPS else work_fit)(case, epochs=epochs, rate=rate, guarded=guarded)


def work_fit(case: str, *, epochs: int, rate: float, guarded: bool) -> Ending:
    """Runs a script that calls `fit`."""
    import keras

    import nanguard

    plain = keras.Model.fit
    endings = []

    def fit(model: Any, *args: Any, **options: Any) -> Any:
        told = ""
        guard = new_guard() if guarded else None
        options["epochs"] = options["epochs"] * epochs
        options["verbose"] = 0
        model.optimizer.learning_rate = float(model.optimizer.learning_rate) * rate
        try:
            plain(model, *args, callbacks=[guard] if guard else [], **options)
        except nanguard.NonFiniteError as error:
            told = str(error).splitlines()[0]
        if guard is not None:
            told = f"{guard.summary()} {told}".strip()
        loss = model.evaluate(*args, verbose=0, return_dict=True)["loss"]
        endings.append(Ending(loss, all(map(is_finite, model.get_weights())), told))

    keras.Model.fit = fit
    try:
        runpy.run_path(str(CASES / f"{case}.py"), run_name="__main__")
    finally:
        keras.Model.fit = plain
    return endings[0]


def work_loop(case: str, *, epochs: int, rate: float, guarded: bool) -> Ending:
    """Runs a script with a loop of its own."""
    import tensorflow as tf

    import nanguard

    loop = LOOPS[case]
    path = CASES / f"{case}.py"
    losses: list[float] = []
    guard = new_guard() if guarded else None

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        inner = function if guard is None else guard.step(function)

        def step(*args: Any, **kwargs: Any) -> Any:
            loss = inner(*args, **kwargs)
            losses.append(float(loss))
            return loss

        return step

    tree = with_step_wrapped(ast.parse(loop.changed(path.read_text(), rate=rate, epochs=epochs)), loop.step)
    script: dict[str, Any] = {"__name__": "__main__", "__file__": str(path), "nanguard_survival": noted}
    told = ""
    try:
        exec(compile(tree, str(path), "exec"), script)
    except nanguard.NonFiniteError as error:
        told = str(error).splitlines()[0]
    if guard is not None:
        told = f"{guard.summary()} {told}".strip()
    weights = [value.numpy() for value in script.values() if isinstance(value, tf.Variable)]
    weights += [each.numpy() for value in script.values() if isinstance(value, tf.Module) for each in value.variables]
    last = losses[-loop.num_batches :]
    return Ending(sum(last) / len(last), all(map(is_finite, weights)), told)


def with_step_wrapped(tree: ast.Module, name: str) -> ast.Module:
    """Puts `name = nanguard_survival(name)` behind the function of that name; no line number changes."""
    (place,) = [i for i, node in enumerate(tree.body) if isinstance(node, ast.FunctionDef) and node.name == name]
    (line,) = ast.parse(f"{name} = nanguard_survival({name})").body
    tree.body.insert(place + 1, ast.copy_location(line, tree.body[place]))
    return ast.fix_missing_locations(tree)


def new_guard() -> Any:
    """The guard that the scripts are given."""
    import nanguard

    return nanguard.Guard(on_nonfinite="rollback", quarantine=None, verbose=False)


def is_finite(values: Any) -> bool:
    """Whether all numbers of an array are finite."""
    import numpy as np

    return bool(np.isfinite(values).all())


def row(case: str, epochs: int) -> tuple[str, bool]:
    """Gives a line of the table, and whether the bar was met."""
    plain = run(case, epochs=epochs)[0]
    guarded = run(case, epochs=epochs, guarded=True)[0]
    tuned = run(case, epochs=epochs, exponents=list(EXPONENTS))
    good = [(ending.loss, exponent) for ending, exponent in zip(tuned, EXPONENTS, strict=False) if _is_good(ending)]
    loss, exponent = min(good, default=(math.nan, 0))
    ratio = guarded.loss / loss
    is_met = _is_good(guarded) and ratio <= BAR
    cells = [
        f"`{case}`", f"x {epochs}", _shown(plain), _shown(guarded),
        f"{loss:.4g} (rate x 2^{exponent})" if good else "no rate is finite",
        f"{ratio:.3f}" if math.isfinite(ratio) else "-", "pass" if is_met else "**miss**", guarded.told,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |", is_met


def work_rates(case: str, *, epochs: int, exponents: Sequence[int]) -> None:
    """Runs a script at one rate after another, and prints how each ended; stops where lower ones only learn less."""
    lowest, num_worse = math.inf, 0
    for exponent in exponents:
        ending = work(case, epochs=epochs, exponent=exponent, guarded=False)
        print(json.dumps(vars(ending)), flush=True)
        if _is_good(ending):
            num_worse = num_worse + 1 if ending.loss > 2 * lowest else 0
            lowest = min(lowest, ending.loss)
        if num_worse >= NUM_WORSE:
            return


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
    if options.worker and options.exponents:
        work_rates(options.worker, epochs=options.epochs, exponents=[int(e) for e in options.exponents.split(",")])
        return 0
    if options.worker:
        print(json.dumps(vars(work(options.worker, epochs=options.epochs, exponent=None, guarded=options.guarded))))
        return 0

    asked = [(case, epochs) for case in FITS for epochs in EPOCHS] + [(case, 1) for case in LOOPS]
    rows = []
    for case, epochs in [(FITS[0], EPOCHS[-1])] if options.short else asked:
        rows.append(row(case, epochs))
        print(rows[-1][0], file=sys.stderr, flush=True)
    head = "| script | its epochs | plain loss | guarded loss | best rate's loss | guarded / best | | the guard |"
    text = "\n".join([head, "|---|--:|--:|--:|--:|--:|---|---|", *(line for line, _ in rows)])
    print(text)
    if options.markdown:
        sys.path.insert(0, str(ROOT))
        from benchmarks.pages import write_section

        write_section(options.markdown, "survival", text)
    return 0 if all(is_met for _, is_met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
