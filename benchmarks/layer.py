"""Measures what `nanguard.clean.Cleaner` costs inside a model, a row; see docs/benchmarks.md.

python -m benchmarks.layer [--short] [--only GLOB] [--rounds N] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer

from benchmarks.options import Options
from benchmarks.pages import Spread, conditions, count, table, verdict, write_section
from nanguard.clean import Cleaner

SECTION = "layer"
BAR = 3.0  # microseconds a row
GAPS = 0.05  # of the cells
BATCHES = (1024, 4096, 8192)
TURN = 0.3  # seconds of CPU time, at the least
LAYERS: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: Cleaner(impute="gaussian"),
    "median": lambda: Cleaner(impute="median"),
    "Normalization": keras.layers.Normalization,  # Keras's own, which fills nothing
}


def rows(number: int) -> np.ndarray:
    """Rows of the 30 measurements of the breast cancer table, a twentieth of their cells missing."""
    draw = np.random.default_rng(number)
    table = load_breast_cancer().data.astype("float32")
    drawn = table[draw.integers(len(table), size=number)]
    drawn[draw.random(drawn.shape) < GAPS] = np.nan
    return drawn


def functions(layer: Any) -> dict[str, Callable[[Any], Any]]:
    """A model of the layer alone, as a graph and under XLA."""
    model = keras.Sequential([keras.Input((30,)), layer])
    return {
        mode: tf.function(lambda x: model(x), jit_compile=mode == "xla", autograph=False) for mode in ("graph", "xla")
    }


def turn(function: Callable[[Any], Any], batch: Any, calls: int) -> float:
    """The CPU time of a row in microseconds."""
    begin = time.process_time()
    for _ in range(calls):
        result = function(batch)
    result.numpy()
    return 1e6 * (time.process_time() - begin) / (calls * len(batch))


def measure(names: Sequence[str], sizes: Sequence[int], rounds: int) -> dict[tuple[str, str, int], Spread]:
    """Runs all in turns, in another order each round."""
    arms = {}
    for name in names:
        layer = LAYERS[name]()
        layer.adapt(np.nan_to_num(rows(4096)) if name == "Normalization" else rows(4096))
        for mode, function in functions(layer).items():
            for size in sizes:
                batch = tf.constant(rows(size))
                function(batch)
                calls = max(1, round(TURN * 1e6 / (turn(function, batch, 3) * size)))
                arms[name, mode, size] = function, batch, calls
    found: dict[tuple[str, str, int], list[float]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in random.Random(number).sample(list(arms), len(arms)):
            found[arm].append(turn(*arms[arm]))
    return {arm: Spread.of(costs) for arm, costs in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; gives 0 if every bar was met, 1 if one was missed."""
    parser = Options("benchmarks.layer", __doc__, short="batches of 1,024", rounds=(15, 3))
    options = parser.parse(arguments)
    names = parser.matching(options.only or ("*",), LAYERS)
    found = measure(names, BATCHES[:1] if options.short else BATCHES, options.rounds)
    cells, is_met = [], True
    for (name, mode, size), cost in found.items():
        outcome = ("", "")
        if name != "Normalization":
            outcome = (f"{BAR:.0f}", verdict(cost.median <= BAR))
            is_met = is_met and cost.median <= BAR
        cells.append((name, mode, f"{size:,}", str(cost), *outcome))
    head = ("layer", "mode", "batch", "CPU microseconds a row", "bar", "")
    text = "\n".join([conditions(count(options.rounds, "round")), "", *table(head, cells, texts=2)])
    print(text)
    if options.markdown:
        write_section(options.markdown, SECTION, text)
    return 0 if options.short or is_met else 1


if __name__ == "__main__":
    sys.exit(main())
