"""A graph that came out of a file: what a replay reads of a traced graph, as plain Python objects.

Nothing of it is handed to TensorFlow as a graph. A replay runs it op by op, so a forged graph meets no importer.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import tensorflow as tf


class StoredFrame(NamedTuple):
    """One frame of the stack that made an op; the names are those of `traceback.FrameSummary`."""

    filename: str
    lineno: int
    name: str


class StoredTensor:
    """An output of a stored op, or a captured input whose value nobody knows: then `op` is None."""

    __slots__ = ("dtype", "index", "op")

    def __init__(self, op: StoredOp | None, index: int, dtype: Any) -> None:
        self.op = op
        self.index = index
        self.dtype = dtype

    @property
    def graph(self) -> StoredGraph | None:
        """The graph that it belongs to."""
        return self.op.graph if self.op is not None else None

    @property
    def name(self) -> str:
        """Name as TensorFlow spells it, such as `dense/MatMul:0`."""
        return f"{self.op.name}:{self.index}" if self.op is not None else ""


class StoredOp:
    """One op of a stored graph.

    Args:
        graph: The graph.
        node: Its definition, a `NodeDef`.
        dtypes: The dtypes of its outputs.
        frames: The stack that made it, outermost first.
        layer: Keras path of the layer in whose call it was made, or None.
    """

    def __init__(
        self, graph: StoredGraph, node: Any, dtypes: list[Any], frames: list[StoredFrame], layer: str | None
    ) -> None:
        self.graph = graph
        self.node_def = node
        self.name = str(node.name)
        self.type = str(node.op)
        self.inputs: list[StoredTensor] = []
        self.outputs = [StoredTensor(self, place, dtype) for place, dtype in enumerate(dtypes)]
        self.traceback = frames
        self.layer = layer
        self._original_op: StoredOp | None = None  # what TensorFlow's own ops call it

    def get_attr(self, name: str) -> Any:
        """An attribute that names a function or functions, or a constant's value."""
        value = self.node_def.attr[name]
        kind = value.WhichOneof("value")
        return list(value.list.func) if kind == "list" else getattr(value, kind)

    def set_forward(self, op: StoredOp) -> None:
        """Notes whose gradient the op belongs to."""
        self._original_op = op


class StoredGraph:
    """A traced graph as it was when a step failed.

    Args:
        name: Its name.
        is_loop: Whether it is the body of a loop, or the gradient of one.
    """

    def __init__(self, name: str, *, is_loop: bool) -> None:
        self.name = name
        self.is_loop = is_loop
        self.outer_graph: StoredGraph | None = None
        self.inputs: list[StoredTensor] = []
        self.outputs: list[StoredTensor] = []
        self.captures: list[tuple[Any, StoredTensor]] = []
        self.functions: dict[str, StoredGraph] = {}
        self.operations: list[StoredOp] = []

    def get_operations(self) -> list[StoredOp]:
        """Its ops, in the order in which they were made."""
        return self.operations

    def num_operations(self) -> int:
        """How many ops it has."""
        return len(self.operations)


_count = itertools.count()


def new_handle(dtype: Any, shape: tuple[int, ...] | None) -> Any:
    """A handle of a variable that there is not: a replay only simulates what is written to it."""
    name = f"nanguard_capture_{next(_count)}"
    return tf.raw_ops.VarHandleOp(dtype=dtype, shape=tf.TensorShape(shape), shared_name=name)
