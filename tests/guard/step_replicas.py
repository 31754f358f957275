"""A loop on two replicas whose whole step, `strategy.run` and all, is called through `guard.step`; run as a script.

python step_replicas.py FILE
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import nanguard as ng

sys.path.insert(0, str(Path(__file__).parent))
from replicas import GLOBAL, batches, dataset, everything, new_model, with_bad


def trained(strategy: Any, parts: list[Any], broken_after: int | None = None, **options: Any) -> dict[str, Any]:
    with strategy.scope():
        model = new_model()
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)

    def on_replica(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((model(x, training=True) - y) ** 2) / GLOBAL
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
        return loss

    @tf.function
    def step(x: Any, y: Any) -> Any:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(on_replica, args=(x, y)), axis=None)

    with tempfile.TemporaryDirectory() as folder:
        guard = ng.Guard(quarantine=folder, verbose=False, num_explained=1, **options)
        guarded = guard.step(step)
        for place, (x, y) in enumerate(strategy.experimental_distribute_dataset(dataset(parts))):
            if place == broken_after:
                for weight in model.trainable_variables:
                    weight.assign(weight * 1e4)
            guarded(x, y)
        causes = [event.incident.cause for event in guard.events if event.incident is not None]
        kept = sum(event.quarantined is not None for event in guard.events)
    found = everything(model, optimizer)
    if options:
        return {**found, "attempts": guard._reactions.rollback.attempts}
    return {**found, "skipped": guard.num_skipped, "cause": causes[0] if causes else "", "kept": kept}


def main(file: str) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    good = batches()
    found = {
        "bad": trained(strategy, with_bad(good)),
        "good": trained(strategy, good),
        "back": trained(strategy, good, broken_after=2, on_nonfinite="rollback"),
        "never": trained(strategy, good, on_nonfinite="rollback"),
    }
    np.savez(file, **{f"{kind}:{key}": value for kind, values in found.items() for key, value in values.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
