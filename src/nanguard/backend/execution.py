"""Running one op by its type, and seeing every op that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe as _pywrap_tfe
from tensorflow.python.eager import backprop as _backprop
from tensorflow.python.eager import context as _context
from tensorflow.python.eager import execute as _execute
from tensorflow.python.framework import op_callbacks as _op_callbacks
from tensorflow.python.framework import op_def_registry as _op_def_registry
from tensorflow.python.framework import ops as _ops

EagerTensor = _ops.EagerTensor
STRING = tf.string.as_datatype_enum
RESOURCE = tf.resource.as_datatype_enum
OpCallback = Callable[..., None]


def run_op(op_type: str, inputs: Sequence[Any], attrs: tuple[Any, ...], num_outputs: int) -> list[Any]:
    """Runs one op eagerly on flat inputs and gives its flat outputs."""
    if None in attrs[1::2]:
        attrs = _without_missing(op_type, attrs)
    outputs = _execute.quick_execute(op_type, num_outputs, list(inputs), attrs, _context.context())
    return list(outputs) if outputs else []


def _without_missing(op_type: str, attrs: tuple[Any, ...]) -> tuple[Any, ...]:
    # A recorded op has None for what its caller left out, such as the axes of tf.squeeze, and the runtime takes none.
    # For a shape None has a meaning: the rank is not known.
    definition = _op_def_registry.get(op_type)
    shapes = {attr.name for attr in definition.attr if attr.type == "shape"} if definition is not None else ()
    pairs = zip(attrs[::2], attrs[1::2], strict=True)
    return tuple(part for name, value in pairs if value is not None or name in shapes for part in (name, value))


def definition(op_type: str) -> Any | None:
    """TensorFlow's definition of a type of op, an `OpDef`; None if it knows none."""
    return _op_def_registry.get(op_type)


def attributes(op: Any) -> tuple[Any, ...]:
    """The attributes of a graph op in the form that `run_op` takes."""
    flat: list[Any] = []
    definition = op.node_def.attr
    for name in definition:
        if not name.startswith("_"):
            flat += [name, _plain(definition[name])]
    return tuple(flat)


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "list":
        items = value.list
        for field in ("s", "i", "f", "b", "type", "shape", "tensor", "func"):
            values = getattr(items, field)
            if values:
                return [_converted(field, item) for item in values]
        return []
    return _converted(kind, getattr(value, kind)) if kind else None


def _converted(kind: str, item: Any) -> Any:
    if kind == "func":
        return _function_name(item)
    if kind == "shape":
        return None if item.unknown_rank else [int(size.size) for size in item.dim]
    return item


def _function_name(item: Any) -> Any:
    return _Function(item.name)


def function_name(value: Any) -> str | None:
    """The name of a function that is an attribute of an eager op; None for any other attribute."""
    name = getattr(value, "name", None)
    return name.decode() if isinstance(name, bytes) else name if isinstance(name, str) else None


class _Function:
    """A function by its name, in the form that the eager runtime takes."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()


def identity_of(tensor: Any) -> int:
    """A number that no other eager tensor of this process has or had."""
    return int(tensor._id)


def watch_ops(callback: OpCallback) -> None:
    """Calls `callback(op_type, inputs, attrs, outputs, op_name, graph)` after each op of this thread."""
    _op_callbacks.add_op_callback(callback)


def unwatch_ops(callback: OpCallback) -> None:
    """Undoes `watch_ops` on this thread."""
    if callback in _context.context().op_callbacks:
        _op_callbacks.remove_op_callback(callback)


def is_watched(callback: OpCallback) -> bool:
    """Whether `watch_ops` is on for this thread."""
    return callback in _context.context().op_callbacks


def gradient_function() -> Callable[..., Any]:
    """TensorFlow's function that runs the gradient of one recorded op."""
    return _backprop._gradient_function  # type: ignore[no-any-return]


def set_gradient_function(function: Callable[..., Any]) -> None:
    """Has every tape run gradients through `function`."""
    _pywrap_tfe.TFE_Py_RegisterGradientFunction(function)


def context_class() -> type:
    """The class whose `call_function` runs every traced function that is called from Python."""
    return _context.Context  # type: ignore[no-any-return]


def read_variable(handle: Any, dtype: tf.DType) -> Any:
    """The value of a variable by its handle; shares the variable's memory until one of the two changes."""
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)


def type_attributes(op_type: str) -> frozenset[str]:
    """Names of the op's attributes that are dtypes."""
    definition = _op_def_registry.get(op_type)
    if definition is None:
        return frozenset()
    return frozenset(attr.name for attr in definition.attr if attr.type in ("type", "list(type)"))


def half_square(tensor: Any) -> Any:
    """Half the sum of squares of an eager tensor, by the shortest way into the runtime."""
    return _pywrap_tfe.TFE_Py_FastPathExecute(_context.context(), "L2Loss", None, tensor)
