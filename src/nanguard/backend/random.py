"""The random numbers of a process: the state of Python's, NumPy's, TensorFlow's and Keras's global generators.

Two kinds: generators that are variables, TensorFlow's and Keras's own, which a checkpoint writes with all other
variables, and the rest, whose state is plain values.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from nanguard.backend import training

_KERAS_GENERATOR = "global_seed_generator"


@dataclass(frozen=True)
class RandomState:
    """Where all global generators stand.

    Args:
        plain: What `plain_state` gives.
        seed: TensorFlow's global seed; None as long as none was set.
        generator: TensorFlow's global generator with its numbers, or None if nothing has asked for it yet.
        keras: The seed variable of Keras's global generator with its value, or None likewise.
    """

    plain: dict[str, Any]
    seed: int | None
    generator: tuple[Any, Any] | None
    keras: tuple[Any, Any] | None


def plain_state() -> dict[str, Any]:
    """Gives where those generators stand that are no variables, by name and as plain values.

    They are "python", "numpy" and, once a seed was set, "tensorflow": the one that gives each eager op its own seed.
    """
    # Not the tuple, which is that of the Mersenne Twister alone: a script may set another bit generator.
    found: dict[str, Any] = {"python": random.getstate(), "numpy": _plain(np.random.get_state(legacy=False))}
    eager = training.eager_random()
    if eager is not None:
        found["tensorflow"] = eager.getstate()
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def restore_plain(wanted: dict[str, Any]) -> None:
    """Puts generators that are no variables to where they stood.

    Args:
        wanted: What `plain_state` gave, or some of it.
    """
    if "python" in wanted:
        random.setstate(wanted["python"])
    if "numpy" in wanted:
        np.random.set_state(wanted["numpy"])
    eager = training.eager_random()
    if "tensorflow" in wanted and eager is not None:
        eager.setstate(wanted["tensorflow"])


def state() -> RandomState:
    """Gives where the global generators stand. What an op inside a traced function keeps for itself is not among it."""
    # The public name would make a generator where there is none.
    generator = stateful_random_ops.global_generator
    keras_generator = global_state.get_global_attribute(_KERAS_GENERATOR)
    return RandomState(
        plain=plain_state(),
        seed=context.context()._seed,
        generator=None if generator is None else (generator, _value(generator.state)),
        keras=None if keras_generator is None else (keras_generator.state, _value(keras_generator.state.value)),
    )


def restore(kept: RandomState) -> None:
    """Puts the global generators back to where they stood."""
    if kept.seed is not None and "tensorflow" in kept.plain:
        # An eager op keeps its own state in a kernel that is found by its seed; this forgets the kernels too.
        tf.random.set_seed(kept.seed)
    restore_plain(kept.plain)
    if kept.generator is not None:
        generator, value = kept.generator
        tf.random.set_global_generator(generator)
        generator.state.assign(value)
    if kept.keras is not None:
        variable, value = kept.keras
        variable.assign(value)


def _value(variable: Any) -> Any:
    return tf.convert_to_tensor(variable)
