"""The private classes of TensorFlow and Keras that the watch attaches to, each by one function."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


def variable_classes() -> tuple[type, ...]:
    """The classes whose `assign` writes every variable; the second takes copies of the first one's methods."""
    from tensorflow.python.ops import resource_variable_ops

    return (resource_variable_ops.BaseResourceVariable, resource_variable_ops.ResourceVariable)


def distributed_variable_classes() -> tuple[type, ...]:
    """The classes of variables that have a copy on every replica, and write them by methods of their own."""
    from tensorflow.python.distribute import values

    return (values.DistributedVariable, values.MirroredVariable, values.SyncOnReadVariable)


def local_component(variable: Any) -> Any:
    """The copy of a distributed variable that belongs to the replica under way, or the first one outside of any."""
    return variable._get()


def new_variable(value: Any, name: str) -> Any:
    """A variable of nanguard's own, made while a function is traced, past its rule that it may make none."""
    from tensorflow.python.ops import resource_variable_ops

    with tf.init_scope():
        return resource_variable_ops.ResourceVariable(value(), trainable=False, name=name)


def is_recording(tape: Any) -> bool:
    """Whether a gradient tape has been entered and not left."""
    return bool(tape._recording)


def atomic_function_class() -> type:
    """The class of a traced function as the runtime knows it; its `_cached_graph` is what was traced."""
    from tensorflow.python.eager.polymorphic_function import atomic_function

    return atomic_function.AtomicFunction  # type: ignore[no-any-return]


def tracing_module() -> Any:
    """The module whose `func_graph_from_py_func` traces every function and branch."""
    from tensorflow.python.framework import func_graph

    return func_graph


def keras_layer_class() -> type:
    """Keras's layer, whose `__call__` every layer goes through."""
    return sys.modules["keras"].Layer  # type: ignore[no-any-return]


def keras_optimizer_class() -> type:
    """Keras's base optimizer, whose `apply` every update goes through."""
    from keras.src.optimizers import base_optimizer

    return base_optimizer.BaseOptimizer  # type: ignore[no-any-return]


def keras_loss_scale_class() -> type:
    """Keras's optimizer with a dynamic loss scale."""
    from keras.src.optimizers import loss_scale_optimizer

    return loss_scale_optimizer.LossScaleOptimizer  # type: ignore[no-any-return]


def build_optimizer(optimizer: Any, variables: list[Any]) -> None:
    """Makes the optimizer's variables, just as its own first `apply` would."""
    with sys.modules["keras"].name_scope(optimizer.name, caller=optimizer):
        optimizer.build(variables)
    optimizer.built = True


def scheduled_rate(optimizer: Any) -> Any | None:
    """The learning rate that a schedule gives for the step under way; None where the rate is a variable."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    schedule = getattr(inner, "_learning_rate", None)
    keras = sys.modules["keras"]
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return None
    return tf.convert_to_tensor(inner.learning_rate)


@contextlib.contextmanager
def scaled_rate(optimizer: Any, scale: Any) -> Iterator[None]:
    """Around an update: its learning rate, or that of its schedule, is multiplied by `scale`. None for as it is."""
    if scale is None:
        yield
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    own = vars(inner)
    scaled = own.get(_RATE)
    if scaled is None:
        scaled = own[_RATE] = _ScaledRate(getattr(inner, _RATE), scale)
    # Replicas of one process take turns in it.
    scaled.num_open += 1
    try:
        yield
    finally:
        scaled.num_open -= 1
        if not scaled.num_open:
            del own[_RATE]


_RATE = "_get_current_learning_rate"


class _ScaledRate:
    def __init__(self, current: Any, scale: Any) -> None:
        self.current, self.scale, self.num_open = current, scale, 0

    def __call__(self) -> Any:
        return tf.convert_to_tensor(self.current()) * tf.convert_to_tensor(self.scale)


def keep_log_keys(model: Any, prefix: str) -> None:
    """Has a model's logs that begin with a prefix go to the callbacks beside those of its metrics."""
    own = type(model)._get_metrics_result_or_logs

    def result(logs: Any) -> Any:
        ours = {key: value for key, value in logs.items() if key.startswith(prefix)}
        return {**own(model, {key: value for key, value in logs.items() if key not in ours}), **ours}

    model.__dict__["_get_metrics_result_or_logs"] = result


def forget_log_keys(model: Any) -> None:
    """Undoes `keep_log_keys`."""
    model.__dict__.pop("_get_metrics_result_or_logs", None)


def keras_trainer_class() -> type:
    """The class whose `fit` trains."""
    from keras.src.backend.tensorflow import trainer

    return trainer.TensorFlowTrainer  # type: ignore[no-any-return]


def keras_callbacks_class() -> type:
    """The list of callbacks that `fit` tells of each epoch."""
    from keras.src.callbacks import callback_list

    return callback_list.CallbackList  # type: ignore[no-any-return]


def direct_train_function(model: Any, function: Any) -> Any:
    """A train function that pulls each batch in Python and so skips a traced function around the step.

    Keras's own train function takes any Python iterator, and then runs the step on each batch itself. Under a
    distribution strategy a batch is one value for each replica, and goes the same way.
    """
    # Keras 3.6 traces the pulling of the batch too. Given a Python iterator, it would be traced anew for each batch: so
    # what it traces is called, except where that makes several steps, which end otherwise when the data runs out. Under
    # XLA the replay has to be given the batch, even so.
    run_step = getattr(function, "python_function", function)
    if run_step is not function and model.steps_per_execution > 1 and not model.jit_compile:
        return function
    pulled = puller()

    def train_function(iterator: Any) -> Any:
        if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            batches = pulled(iterator)
            first = next(batches)
            iterator = itertools.chain((first,), batches)
        return run_step(iterator)

    train_function.is_nanguards = True  # type: ignore[attr-defined]
    return train_function


def puller() -> Callable[[Any], Iterator[Any]]:
    """Gives what makes a Python iterator of one of Keras's; the two end together."""
    # A strategy asks all its devices for their parts of a batch: by some twenty ops, which are fast in one function.
    pull = tf.function(lambda iterator: iterator.get_next(), autograph=False)

    def parts(iterator: Any) -> Iterator[Any]:
        while True:
            try:
                batch = pull(iterator)
            except tf.errors.OutOfRangeError:
                return
            yield batch

    return lambda iterator: parts(iterator) if isinstance(iterator, tf.distribute.DistributedIterator) else iterator


def is_keras_step(model: Any) -> bool:
    """Whether a model trains by Keras's own `train_step`, which makes one update."""
    from keras.src.backend.tensorflow import trainer

    own = trainer.TensorFlowTrainer.train_step
    return getattr(model.train_step, "__func__", None) is own
