"""Runs single ops of a replay; the script's variables are only simulated, so that a replay changes nothing."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from nanguard.backend import execution

_HALF = (tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum)
_SINGLE = tf.float32.as_datatype_enum


class Machine:
    """Runs ops eagerly on a simulated set of variables.

    Args:
        variables: Values by the identity of the variable's handle. Changed by the ops that write variables.
        is_widened: Whether ops in float16 and bfloat16 run in float32 instead.
    """

    def __init__(self, variables: dict[int, Any], *, is_widened: bool = False) -> None:
        self.variables = variables
        self.is_widened = is_widened

    def run(self, op: str, attrs: tuple[Any, ...], inputs: list[Any], num_outputs: int) -> list[Any]:
        """Runs one op and gives its outputs."""
        if self.is_widened:
            inputs, attrs = [widened(value) for value in inputs], _widened_attrs(op, attrs)
        if inputs and inputs[0].dtype == tf.resource:
            simulated = self._run_on_variable(op, attrs, inputs)
            if simulated is not None:
                return simulated
            if any(self._key(value) in self.variables for value in inputs if value.dtype == tf.resource):
                return self._run_on_copies(op, attrs, inputs, num_outputs)
        return execution.run_op(op, inputs, attrs, num_outputs)

    @staticmethod
    def _key(handle: Any) -> int:
        return execution.identity_of(handle)

    def _run_on_variable(self, op: str, attrs: tuple[Any, ...], inputs: list[Any]) -> list[Any] | None:
        key = self._key(inputs[0])
        if op == "AssignVariableOp":
            self.variables[key] = inputs[1]
            return []
        if op == "VarIsInitializedOp":
            return [tf.constant(key in self.variables)]
        if key not in self.variables:
            return None
        value = self.variables[key]
        if op == "ReadVariableOp":
            return [value]
        if op == "VariableShape":
            return [tf.shape(value)]
        if op == "AssignAddVariableOp":
            self.variables[key] = value + tf.cast(inputs[1], value.dtype)
            return []
        if op == "AssignSubVariableOp":
            self.variables[key] = value - tf.cast(inputs[1], value.dtype)
            return []
        if op == "ResourceGather":
            batch_dims = dict(zip(attrs[::2], attrs[1::2], strict=True)).get("batch_dims", 0)
            return [tf.gather(value, inputs[1], batch_dims=batch_dims)]
        scatter = _SCATTER.get(op)
        if scatter is not None:
            indices = tf.expand_dims(inputs[1], -1)
            updates = tf.broadcast_to(
                tf.cast(inputs[2], value.dtype), tf.concat([tf.shape(inputs[1]), tf.shape(value)[1:]], 0)
            )
            self.variables[key] = scatter(value, indices, updates)
            return []
        return None

    def _run_on_copies(self, op: str, attrs: tuple[Any, ...], inputs: list[Any], num_outputs: int) -> list[Any]:
        """Runs an op that writes variables in a way that is not simulated, on copies of them."""
        copies = {}
        handles = []
        for value in inputs:
            if value.dtype == tf.resource and self._key(value) in self.variables:
                key = self._key(value)
                copies[key] = tf.Variable(self.variables[key], trainable=False)
                value = copies[key].handle
            handles.append(value)
        outputs = execution.run_op(op, handles, attrs, num_outputs)
        for key, copy in copies.items():
            self.variables[key] = copy.read_value()
        return outputs


_SCATTER: dict[str, Any] = {
    "ResourceScatterAdd": tf.tensor_scatter_nd_add,
    "ResourceScatterSub": tf.tensor_scatter_nd_sub,
    "ResourceScatterUpdate": tf.tensor_scatter_nd_update,
}


def widened(value: Any) -> Any:
    """A half-precision tensor in float32; any other as it is."""
    return tf.cast(value, tf.float32) if value.dtype in (tf.float16, tf.bfloat16) else value


@functools.cache
def _type_attrs(op: str) -> frozenset[str]:
    return execution.type_attributes(op)


def _widened_attrs(op: str, attrs: tuple[Any, ...]) -> tuple[Any, ...]:
    flat = list(attrs)
    for place in range(0, len(flat), 2):
        if flat[place] in _type_attrs(op):
            value = flat[place + 1]
            if isinstance(value, list):
                flat[place + 1] = [_SINGLE if item in _HALF else item for item in value]
            elif value in _HALF:
                flat[place + 1] = _SINGLE
    return tuple(flat)
