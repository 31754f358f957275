"""The watch over functions that XLA compiles, in which no host callback can run and every extra output costs fusions.

The variables are kept by reference before each call, and weights and outputs are tested after it.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from nanguard.backend import execution, graphs
from nanguard.backend.values import is_finite
from nanguard.guard import variables as script_variables
from nanguard.guard.graph import Check, GraphWatch, Sighting

# The attributes by which an op names the functions that it runs.
_CALLING = {
    "PartitionedCall": ("f",),
    "StatefulPartitionedCall": ("f",),
    "While": ("body",),
    "StatelessWhile": ("body",),
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
}
_PATIENCE = 3  # false suspicions before an output is taken to be a metric


class CompiledWatch:
    """Calls compiled functions and tests what they did.

    Args:
        graph: The watch that wrote down, while the functions were traced, what their steps are judged by.
    """

    def __init__(self, graph: GraphWatch) -> None:
        self._graph = graph
        self._suspicions: dict[tuple[bytes, int], int] = {}

    def call(self, call: Any, context: Any, name: bytes, inputs: Any, num_outputs: int) -> tuple[Any, Sighting | None]:
        """Calls the function; gives its outputs, and what was seen if they or its variables are not finite."""
        handles = {}
        for tensor in inputs:
            if tensor.dtype == tf.resource:
                dtype = script_variables.dtype_of(tensor)
                if dtype is not None:
                    handles[execution.identity_of(tensor)] = (tensor, dtype)
        before = {key: execution.read_variable(handle, dtype) for key, (handle, dtype) in handles.items()}
        outputs = call(context, name, inputs, num_outputs)
        checks = self._checks(graphs.defined(name.decode()))
        if not checks:
            return outputs, None
        suspects = [
            place
            for place, tensor in enumerate(outputs or ())
            if tensor.dtype.is_floating and tensor.shape.rank == 0
            and self._suspicions.get((name, place), 0) < _PATIENCE
            and not is_finite(tensor)
        ]  # fmt: skip
        trained = {
            execution.identity_of(component.handle)
            for check in checks
            for variable, _ in check.gradients
            for component in script_variables.components(script_variables.raw(variable))
        }
        has_bad_weights = any(not is_finite(execution.read_variable(*handles[key])) for key in trained & handles.keys())
        if not (suspects or has_bad_weights):
            return outputs, None
        for place in suspects:
            self._suspicions[name, place] = self._suspicions.get((name, place), 0) + 1
        graph = graphs.defined(name.decode())
        merged = Check(
            graph,
            losses=[loss for check in checks for loss in check.losses],
            gradients=[pair for check in checks for pair in check.gradients],
            state=[pair for check in checks for pair in check.state],
            is_scaled=any(check.is_scaled for check in checks),
        )
        values = {id(inside): value for inside, value in zip(graph.inputs, inputs, strict=True)
                  if value.dtype not in (tf.resource, tf.variant)}  # fmt: skip
        return outputs, Sighting(
            merged,
            values,
            before,
            {key: handle for key, (handle, _) in handles.items()},
            has_bad_loss=bool(suspects),
            bad_gradients=[],
            bad_updates=[],
            bad_state=[],
            is_compiled=True,
            has_bad_weights=has_bad_weights,
        )

    def _checks(self, graph: Any, seen: set[int] | None = None) -> list[Check]:
        seen = set() if seen is None else seen
        if id(graph) in seen:
            return []
        seen.add(id(graph))
        found = list(self._graph.compiled.get(graph, ()))
        for op in graph.get_operations():
            for attribute in _CALLING.get(op.type, ()):
                found += self._checks(graphs.called(graph, op.get_attr(attribute).name), seen)
        return found
