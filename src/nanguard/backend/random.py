"""The random numbers of a process: the state of Python's, NumPy's, TensorFlow's and Keras's global generators."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

_KERAS_GENERATOR = "global_seed_generator"


@dataclass(frozen=True)
class RandomState:
    """Where all global generators stand.

    Args:
        python: What `random.getstate` gives.
        numpy: What `np.random.get_state` gives.
        op_seeds: TensorFlow's global seed, and the state of the generator that gives each eager op its own; None as
            long as no seed was set.
        generator: TensorFlow's global generator with its numbers, or None if nothing has asked for it yet.
        keras: The seed variable of Keras's global generator with its value, or None likewise.
    """

    python: Any
    numpy: Any
    op_seeds: tuple[int | None, Any]
    generator: tuple[Any, Any] | None
    keras: tuple[Any, Any] | None


def state() -> RandomState:
    """Gives where the global generators stand. What an op inside a traced function keeps for itself is not among it."""
    at_work = context.context()
    # A context of several devices that nobody has seeded has no `_rng` at all.
    op_generator = getattr(at_work, "_rng", None)
    op_seeds = (at_work._seed, None if op_generator is None else op_generator.getstate())
    # The public name would make a generator where there is none.
    generator = stateful_random_ops.global_generator
    keras_generator = global_state.get_global_attribute(_KERAS_GENERATOR)
    return RandomState(
        python=random.getstate(),
        numpy=np.random.get_state(),
        op_seeds=op_seeds,
        generator=None if generator is None else (generator, _value(generator.state)),
        keras=None if keras_generator is None else (keras_generator.state, _value(keras_generator.state.value)),
    )


def restore(kept: RandomState) -> None:
    """Puts the global generators back to where they stood."""
    random.setstate(kept.python)
    np.random.set_state(kept.numpy)
    seed, place = kept.op_seeds
    if seed is not None and place is not None:
        # An eager op keeps its own state in a kernel that is found by its seed; this forgets the kernels too.
        tf.random.set_seed(seed)
        context.context()._rng.setstate(place)
    if kept.generator is not None:
        generator, value = kept.generator
        tf.random.set_global_generator(generator)
        generator.state.assign(value)
    if kept.keras is not None:
        variable, value = kept.keras
        variable.assign(value)


def _value(variable: Any) -> Any:
    return tf.convert_to_tensor(variable)
