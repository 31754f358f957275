"""The ways of training that `benchmarks.guard` compares: all in one process, each with a model of its own, in turns.

python -m benchmarks.contenders fit mlp --mode graph --steps 300 --rounds 5
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

import nanguard
from benchmarks import workloads
from benchmarks.workloads import Build, peak_memory

WARM_UP_ROUNDS = 2
FITS: dict[str, Build] = {name: getattr(workloads, name) for name in ("mlp", "mobilenet", "lstm", "transformer")}
LOOPS: dict[str, Build] = {"mlp": workloads.mlp, "cnn": workloads.cnn}

Turn = Callable[[], None]


def loss() -> keras.losses.Loss:
    """Gives the loss that all train with."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def optimizer(arm: str) -> Any:
    """Gives the optimizer of an arm."""
    if arm == "global_clipnorm":
        return keras.optimizers.Adam(1e-4, global_clipnorm=1.0)
    plain = keras.optimizers.Adam(1e-4)
    if arm == "LossScaleOptimizer":
        return keras.optimizers.LossScaleOptimizer(plain)
    return nanguard.GuardedOptimizer(plain) if arm == "GuardedOptimizer" else plain


def callbacks(arm: str) -> list[keras.callbacks.Callback]:
    """Gives the callbacks of an arm."""
    if arm == "TerminateOnNaN":
        return [keras.callbacks.TerminateOnNaN()]
    if not arm.startswith("Guard"):
        return []
    return [nanguard.Guard(on_nonfinite="rollback" if "snapshots" in arm else "skip", quarantine=None, verbose=False)]


def fit(name: str, arm: str, mode: str, steps: int) -> Turn:
    """Gives one epoch of `fit` as a turn, after its first step."""
    keras.utils.set_random_seed(0)
    model, batch_size, shape = FITS[name]()
    model.compile(optimizer(arm), loss(), jit_compile=mode == "xla")
    x, y = workloads.classification(shape, steps * batch_size)
    given = callbacks(arm)

    def turn(num_rows: int | None = None) -> None:
        model.fit(x[:num_rows], y[:num_rows], batch_size=batch_size, callbacks=given, verbose=0)

    turn(batch_size)
    return turn


def loop(name: str, arm: str, mode: str, steps: int) -> Turn:
    """Gives some steps in a loop of one's own as a turn, after the first one."""
    keras.utils.set_random_seed(0)
    model, batch_size, shape = LOOPS[name]()
    loss_of, update = loss(), optimizer(arm)
    update.build(model.trainable_variables)
    guard = nanguard.Guard(model, update, quarantine=None, verbose=False) if arm.startswith("Guard.") else None
    batch = [tf.constant(array) for array in workloads.classification(shape, batch_size)]

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss_of(y, model(x, training=True))
        grads = tape.gradient(value, model.trainable_variables)
        if arm == "Guard.apply":
            guard.apply(grads, loss=value)
        else:
            update.apply(grads, model.trainable_variables)
        return value

    train_step = tf.function(guard.step(step) if arm == "Guard.step" else step, jit_compile=mode == "xla")

    def turn() -> None:
        for _ in range(steps):
            value = train_step(*batch)
        float(value)

    float(train_step(*batch))
    return turn


def prepared(kind: str, name: str, arm: str, mode: str, steps: int) -> tuple[Turn, float]:
    """Gives the turn of an arm, and the CPU time that its first step took, with the tracing."""
    started_at = time.process_time()
    if arm == "enable_check_numerics":
        # It marks what is traced while it is on. The other arms of this process are to stay as they are.
        tf.debugging.enable_check_numerics()
    try:
        turn = (fit if kind == "fit" else loop)(name, arm, mode, steps)
    finally:
        if arm == "enable_check_numerics":
            tf.debugging.disable_check_numerics()
    return turn, time.process_time() - started_at


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains one workload in all arms, and prints what each turn took per step as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("fit", "loop"))
    parser.add_argument("name")
    parser.add_argument("--mode", choices=("graph", "xla"), default="graph")
    parser.add_argument("--arms", default="plain,plain again,Guard")
    parser.add_argument("--steps", type=int, default=300, help="training steps in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)

    arms = options.arms.split(",")
    made = {arm: prepared(options.kind, options.name, arm, options.mode, options.steps) for arm in arms}
    figures: dict[str, dict[str, list[float]]] = {arm: {"cpu": [], "wall": []} for arm in arms}
    order, shuffle = list(arms), random.Random(0).shuffle
    for number in range(WARM_UP_ROUNDS + options.rounds):
        # Not the same order each time: what one turn leaves in the caches falls on all arms alike.
        shuffle(order)
        for arm in order:
            gc.collect()  # or the garbage of one arm is cleared away in another's turn
            cpu, wall = time.process_time(), time.perf_counter()
            made[arm][0]()
            if number >= WARM_UP_ROUNDS:
                figures[arm]["cpu"].append((time.process_time() - cpu) / options.steps)
                figures[arm]["wall"].append((time.perf_counter() - wall) / options.steps)
    first = {arm: seconds for arm, (_, seconds) in made.items()}
    print(json.dumps({"figures": figures, "first": first, "peak_memory": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
