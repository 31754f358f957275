"""The private parts of Keras's `fit` and of TensorFlow's random state that a checkpoint reads and sets."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nanguard.backend import seams


def callback_list_of(callback: Any) -> Any | None:
    """The list of callbacks that is calling this callback now; None if something else calls it."""
    kind: Any = seams.keras_callbacks_class()
    frame: Any = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, kind) and any(found is callback for found in owner.callbacks):
            return owner
        frame = frame.f_back
    return None


def calling_fit() -> dict[str, Any]:
    """The local variables of the `fit` that is running; empty if none is."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and "epoch_iterator" in frame.f_locals:
            return dict(frame.f_locals)
        frame = frame.f_back
    return {}


def starts_each_epoch_afresh(local: dict[str, Any]) -> bool:
    """Whether the order of an epoch's batches depends on no earlier epoch, so that whole epochs need not be pulled.

    True of arrays that `fit` walks once an epoch: Keras shuffles them by a random op inside the data set, whose state
    is new with every iterator.
    """
    from keras.src.trainers.data_adapters import array_data_adapter

    iterator: Any = local.get("epoch_iterator")
    adapter = getattr(iterator, "data_adapter", None)
    return type(adapter) is array_data_adapter.ArrayDataAdapter and iterator.steps_per_epoch is None


def set_first_epoch(model: Any, epoch: int | None) -> None:
    """Has the `fit` that begins start at this epoch; None takes that back."""
    model._initial_epoch = epoch


def mute_validation(model: Any) -> Callable[[], None]:
    """Keeps `fit` from validating, and from asking metrics that no step has made, until what comes back is called."""
    stand_ins: dict[str, Any] = {
        "_should_eval": lambda *args, **options: False,
        "_get_metrics_result_or_logs": lambda logs: logs,
    }
    before = {name: model.__dict__[name] for name in stand_ins if name in model.__dict__}
    model.__dict__.update(stand_ins)

    def undo() -> None:
        for name in stand_ins:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)

    return undo


def build(model: Any, batch: Any) -> None:
    """Makes the variables of model, metrics and optimizer as Keras does under a strategy, as far as it can."""
    # A model with a step of its own need not have a call that Keras can trace.
    with contextlib.suppress(Exception), model.distribute_strategy.scope():
        model._symbolic_build(data_batch=batch)


def components(variable: Any) -> list[Any]:
    """The variable of each replica; the variable itself outside a strategy."""
    values = getattr(variable, "_values", None)
    return list(values) if values is not None and hasattr(variable, "_distribute_strategy") else [variable]


def global_variables() -> list[Any]:
    """The variables behind Keras's and TensorFlow's global random generators, those that were made."""
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator
    from tensorflow.python.ops import stateful_random_ops

    found = []
    # Keras 3.6 has no name for the name.
    name = getattr(seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")
    keras_generator = global_state.get_global_attribute(name)
    if keras_generator is not None:
        found.append(keras_generator.state)
    if stateful_random_ops.global_generator is not None:
        found.append(tf.random.get_global_generator().state)
    return found


def make_global_generator() -> None:
    """Makes Keras's global random generator if there is none yet."""
    from keras.src.random import seed_generator

    seed_generator.global_seed_generator()


def global_seed() -> int | None:
    """The seed that `tf.random.set_seed` was given; None if it was not called."""
    from tensorflow.python.eager import context

    return context.global_seed()  # type: ignore[no-any-return]


def eager_random() -> Any | None:
    """The `random.Random` from which eager random ops take their seeds; None without a global seed."""
    from tensorflow.python.eager import context

    # Without a seed there is no such attribute.
    return getattr(context.context(), "_rng", None)
