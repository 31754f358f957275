"""What the script's variables are: weights, slots, layer state, metrics; and which optimizers can be trusted."""

from __future__ import annotations

import gc
import sys
from typing import Any

import tensorflow as tf

from nanguard.backend import execution, seams
from nanguard.capture import Named

# Their update is finite whenever the gradients, their squares and the learning rate are: nothing they divide by is 0.
_TRUSTED = frozenset({"SGD", "Adam", "AdamW", "Adamax", "Nadam", "Adagrad", "Adadelta", "Lion", "RMSprop", "Ftrl"})


def raw(variable: Any) -> Any:
    """The TensorFlow variable of a Keras or TensorFlow variable."""
    value = getattr(variable, "_value", None)
    return value if value is not None and not isinstance(variable, tf.Variable) else variable


def is_variable(thing: Any) -> bool:
    """Whether the thing is a Keras or TensorFlow variable."""
    return isinstance(raw(thing), tf.Variable)


def dtype_of(handle: Any) -> tf.DType | None:
    """The dtype of the variable behind a handle; None if the handle is of something else."""
    data = getattr(handle, "_handle_data", None)
    if data is None or not data.is_set or not data.shape_and_type:
        return None
    dtype = tf.dtypes.as_dtype(data.shape_and_type[0].dtype)
    return dtype if dtype not in (tf.resource, tf.variant) else None


def shape_of(handle: Any) -> tf.TensorShape:
    """The shape of the variable behind a handle that has a dtype."""
    return tf.TensorShape(handle._handle_data.shape_and_type[0].shape)


def is_distributed(variables: list[Any]) -> bool:
    """Whether any of the variables lives on several replicas."""
    return any(hasattr(raw(v), "_values") or hasattr(raw(v), "_distributed_container") for v in variables)


def optimizer_variables(optimizer: Any) -> list[Any]:
    """The optimizer's own variables; empty if it has none that can be listed."""
    variables = getattr(optimizer, "variables", None)
    if callable(variables):
        variables = variables()
    return [v for v in variables or () if is_variable(v)]


def num_calls(optimizer: Any) -> Any | None:
    """The TensorFlow variable in which an optimizer counts its updates, micro-steps of an accumulation too; or None."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    counter = getattr(inner, "_iterations", None)
    return raw(counter) if counter is not None and is_variable(counter) else None


def dynamic_scale(optimizer: Any) -> Any | None:
    """The TensorFlow variable of the optimizer's dynamic loss scale, or None."""
    scale = getattr(optimizer, "dynamic_scale", None)
    return raw(scale) if scale is not None and is_variable(scale) else None


def is_trusted(optimizer: Any, variables: list[Any]) -> bool:
    """Whether finite gradients cannot make this optimizer's update non-finite, so that it need not be tested."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    kind = type(optimizer)
    return (
        kind.__name__ in _TRUSTED
        and kind.__module__.startswith("keras.src.optimizers")
        and getattr(optimizer, "epsilon", 1.0) is not None
        and float(getattr(optimizer, "epsilon", 1.0)) > 1e-12
        and not getattr(optimizer, "centered", False)
        and not any(getattr(v, "constraint", None) is not None for v in variables)
        and all(raw(v).dtype != tf.float16 for v in variables)
    )


def kind_of_write() -> str:
    """What kind of variable the code on the stack is writing: looks for the Keras object that asked for it."""
    keras = sys.modules.get("keras")
    if keras is None:
        return "weight"
    variable_kind = "weight"
    frame = sys._getframe(1)
    for _ in range(40):
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.Variable):
            variable_kind = "weight" if owner.trainable else "state"
        elif isinstance(owner, keras.metrics.Metric):
            # After a refused step of an eager loop a reset must last: it is no part of that step.
            return "reset" if frame.f_code.co_name == "reset_state" else "metric"
        elif isinstance(owner, keras.optimizers.Optimizer):
            return "slot"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return variable_kind


def named() -> dict[int, Named]:
    """Every variable of the process by the identity of its handle. Slow: for use once, at an incident."""
    found: dict[int, Named] = {}
    keras = sys.modules.get("keras")
    slots: set[int] = set()
    metrics: set[int] = set()
    everything = gc.get_objects()
    if keras is not None:
        optimizer_class, metric_class = keras.optimizers.Optimizer, keras.metrics.Metric
        for thing in everything:
            kind = type(thing)
            if issubclass(kind, optimizer_class):
                slots.update(id(raw(v)) for v in getattr(thing, "_variables", ()))
            elif issubclass(kind, metric_class):
                metrics.update(id(raw(v)) for v in getattr(thing, "_variables", ()))
    for thing in everything:
        if keras is not None and issubclass(type(thing), keras.Variable):
            variable = raw(thing)
            path, trainable = thing.path, thing.trainable
        elif issubclass(type(thing), tf.Variable):
            variable, path, trainable = thing, thing.name.split(":")[0], thing.trainable
        else:
            continue
        if not isinstance(variable, tf.Variable):
            continue
        kind_name = (
            "slot" if id(variable) in slots
            else "metric" if id(variable) in metrics
            else "weight" if trainable
            else "state"
        )  # fmt: skip
        is_keras = not isinstance(thing, tf.Variable)
        for component in components(variable):
            key = execution.identity_of(component.handle)
            if is_keras or key not in found:
                found[key] = Named(path, component, kind_name)
    return found


def local(variable: Any) -> Any:
    """The variable itself, or under a distribution strategy the copy that belongs to this replica."""
    variable = raw(variable)
    return seams.local_component(variable) if hasattr(variable, "_values") else variable


def components(variable: Any) -> list[Any]:
    """The variable itself, or the variables of its replicas."""
    values = getattr(variable, "_values", None)
    return list(values) if values else [variable] if hasattr(variable, "handle") else []
