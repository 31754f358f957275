"""Training without a fault: how often the guard refuses a step, or calls a spike."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from faults.families import ROWS, build
from faults.ours import new_guard


@dataclass(frozen=True)
class Healthy:
    """A training without a fault.

    Args:
        family: The family's name.
        steps: Its steps.
        refused: Steps that were refused.
        spikes: Spikes and divergences that were called.
        is_finite: Whether all is finite at the end.
        seconds: How long it took.
    """

    family: str
    steps: int
    refused: int
    spikes: int
    is_finite: bool
    seconds: float


def run(family_name: str, steps: int) -> Healthy:
    """Trains one family with a guard in `fit`, on rows with noise that is new each time.

    Args:
        family_name: A key of `FAMILIES`.
        steps: How many steps.
    """
    began = time.perf_counter()
    family = build(family_name, "float32")
    family.compile(jit=False)
    guard = new_guard()

    def noisy(x: tf.Tensor) -> tf.Tensor:
        return x + tf.random.normal(tf.shape(x), stddev=0.3) if x.dtype.is_floating else x

    data = tf.data.Dataset.from_tensor_slices((family.x, family.y)).shuffle(48, seed=1).repeat()
    data = data.batch(ROWS, drop_remainder=True).map(lambda x, y: (tf.nest.map_structure(noisy, x), y))
    family.model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False, callbacks=[guard])
    finite = all(np.isfinite(v.numpy()).all() for v in family.variables())
    spikes = sum(event.reason != "nonfinite" for event in guard.events)
    return Healthy(family_name, steps, guard.num_skipped, spikes, finite, time.perf_counter() - began)
