"""Calling what was traced already, without TensorFlow's search for it: for a small step that is a tenth of its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record as _record
from tensorflow.python.framework import ops as _ops

_STEP = "one_step_on_data"  # Keras's traced function around `train_step`


def traced_step(train_function: Any) -> Any | None:
    """The `tf.function` in which a Keras train function runs one step on one batch; None if there is none."""
    waiting, seen = [train_function], set()
    while waiting:
        function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        python_function = getattr(function, "python_function", None)
        if python_function is not None and python_function.__name__ == _STEP:
            return function
        if python_function is not None:
            waiting.append(python_function)
        for cell in getattr(function, "__closure__", None) or ():
            try:
                if callable(cell.cell_contents) and not isinstance(cell.cell_contents, type):
                    waiting.append(cell.cell_contents)
            except ValueError:  # a cell that was never filled
                continue
    return None


class Shortcut:
    """A train function of one batch that goes straight to the trace for batches like those it has seen.

    TensorFlow describes each argument anew in every call, by some thousand calls of Python. A batch that is alike in
    structure, shapes and dtypes gets the trace that it got before.

    Args:
        plain: The train function; takes an iterator of one batch.
        step: The `tf.function` that it calls with the batch, from `traced_step`.
    """

    def __init__(self, plain: Callable[[Any], Any], step: Any) -> None:
        self._plain = plain
        self._step = step
        self._traces: dict[Any, tuple[Any, list[Any]]] = {}

    def __call__(self, batch: Any) -> Any:
        """Runs the step on a batch."""
        leaves: list[Any] = []
        key = _described(batch, leaves)
        if key is None or _record.could_possibly_record() or tf.config.functions_run_eagerly():
            return self._plain(iter((batch,)))
        known = self._traces.get(key)
        if known is not None:
            function, captures = known
            return function.call_preflattened(leaves + captures)
        result = self._plain(iter((batch,)))
        trace = self._step.get_concrete_function(batch)
        if not trace.graph.deferred_external_captures and len(trace.inputs) == len(leaves) + len(trace.captured_inputs):
            self._traces[key] = trace.inference_fn, list(trace.captured_inputs)
        return result


def _described(value: Any, leaves: list[Any]) -> Any:
    """What of a batch decides on its trace, and its tensors; None if it is not of the plainest kind."""
    kind = type(value)
    if kind is _ops.EagerTensor:
        leaves.append(value)
        return value._shape_tuple(), value.dtype
    if kind is tuple or kind is list:
        parts = [_described(part, leaves) for part in value]
    elif kind is dict and all(type(name) is str for name in value):
        # By name, the order in which TensorFlow takes them.
        parts = [part for name in sorted(value) for part in (name, _described(value[name], leaves))]
    else:
        return None
    return None if None in parts else (kind, *parts)
