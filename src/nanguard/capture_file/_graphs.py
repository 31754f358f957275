"""Traced graphs in a capture file: the ops as TensorFlow writes them, and tables of what it does not write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nanguard.backend import execution, graphs
from nanguard.backend.stored import StoredGraph, StoredOp, StoredTensor
from nanguard.capture_file import _ops
from nanguard.capture_file._frames import FrameReader, FrameWriter
from nanguard.capture_file._tensors import TensorReader, TensorWriter
from nanguard.capture_file._zip import Reader, Writer

_MOST_CONSTANT = 1 << 28  # values that one constant may be blown up to
GRAPHS = "graphs.json"


class Handles:
    """Numbers the variables of a capture by the identities of their handles."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, identity: int) -> int:
        """The number of a variable."""
        return self._known.setdefault(identity, len(self._known))


class GraphWriter:
    """Numbers graphs, with all that they call, and writes them.

    Args:
        frames: Where the stacks go.
        tensors: Where captured values go.
        handles: Where captured variables go.
    """

    def __init__(self, frames: FrameWriter, tensors: TensorWriter, handles: Handles) -> None:
        self._frames = frames
        self._tensors = tensors
        self._handles = handles
        self._graphs: list[Any] = []
        self._places: dict[int, int] = {}  # of graphs, by id
        self._ops: list[dict[str, int]] = []  # places of a graph's ops, by name
        self._calls: list[dict[str, int]] = []

    def add(self, graph: Any) -> int:
        """The number of a graph; adds what it calls, and what its ops are the gradients of."""
        number = self._place(graph)
        done = number
        while done < len(self._graphs):
            self._follow(done)
            done += 1
        return number

    def _place(self, graph: Any) -> int:
        place = self._places.get(id(graph))
        if place is None:
            place = self._places[id(graph)] = len(self._graphs)
            self._graphs.append(graph)
            self._ops.append({op.name: number for number, op in enumerate(graph.get_operations())})
            self._calls.append({})
        return place

    def _follow(self, place: int) -> None:
        graph = self._graphs[place]
        for op in graph.get_operations():
            if graphs.is_nanguards(op):
                continue
            for name in _called(op):
                if name not in self._calls[place]:
                    self._calls[place][name] = self._place(graphs.called(graph, name))
            forward = graphs.forward_op(op)
            if forward is not None and graphs.is_traced(forward.graph):
                self._place(forward.graph)

    def tensor(self, tensor: Any) -> list[int] | None:
        """Where a tensor stands: graph, op, output; None for one of no graph that was added."""
        place = self._places.get(id(getattr(tensor, "graph", None)))
        if place is None:
            return None
        return [place, self._ops[place][tensor.op.name], _index(tensor)]

    def tensors_by_id(self) -> dict[int, list[int]]:
        """Where each tensor stands, by its `id`."""
        return {
            id(tensor): [place, number, index]
            for place, graph in enumerate(self._graphs)
            for number, op in enumerate(graph.get_operations())
            for index, tensor in enumerate(op.outputs)
        }

    def write(self, archive: Writer) -> None:
        """Writes all graphs."""
        layers: dict[str, int] = {}
        tables = []
        for place, graph in enumerate(self._graphs):
            definition, table = self._written(place, graph, layers)
            archive.add(f"graphs/{place}.pb", definition.SerializeToString())
            tables.append(table)
        archive.add(GRAPHS, json.dumps({"layers": list(layers), "graphs": tables}, separators=(",", ":")).encode())

    def _written(self, place: int, graph: Any, layers: dict[str, int]) -> tuple[Any, dict[str, Any]]:
        operations = graph.get_operations()
        used = {id(tensor) for op in operations if not _is_passed_over(op) for tensor in op.inputs}
        used |= {id(tensor) for tensor in graph.outputs}
        definition = tf.compat.v1.GraphDef()
        rows = []
        for op in operations:
            node = definition.node.add()
            node.name = op.name
            dtypes = [tensor.dtype.name for tensor in op.outputs]
            inputs: list[int] = []
            if _is_dropped(op, used):
                node.op = "Placeholder"
            else:
                _copy(op, node)
                for tensor in op.inputs:
                    inputs += [self._ops[place][tensor.op.name], _index(tensor)]
            layer = graphs.layer(op)
            rows.append([
                inputs,
                dtypes,
                self._frames.stack(graphs.frames(op)),
                layers.setdefault(layer, len(layers)) if layer is not None else -1,
                self._op(graphs.forward_op(op)),
            ])  # fmt: skip
        outer = getattr(graph, "outer_graph", None)
        return definition, {
            "name": graph.name if isinstance(graph.name, str) else "",
            "is_loop": graphs.is_loop(graph),
            "outer": self._places.get(id(outer), -1) if outer is not None else -1,
            "inputs": [self._inside(place, tensor) for tensor in graph.inputs],
            "outputs": [self._inside(place, tensor) for tensor in graph.outputs],
            "captures": [self._capture(place, graph, inside) for _, inside in graph.captures],
            "calls": self._calls[place],
            "ops": rows,
        }

    def _inside(self, place: int, tensor: Any) -> list[int]:
        return [self._ops[place][tensor.op.name], _index(tensor)]

    def _op(self, op: Any) -> list[int] | None:
        place = self._places.get(id(op.graph)) if op is not None else None
        return [place, self._ops[place][op.name]] if place is not None else None

    def _capture(self, place: int, graph: Any, inside: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"inside": self._inside(place, inside)}
        value = graphs.external(graph, inside)
        if value is None:
            return found
        if value.dtype == tf.resource:
            return {**found, "handle": self._handles.add(execution.identity_of(value))}
        number = self._tensors.add(value) if value.dtype != tf.variant else None
        return {**found, "tensor": number} if number is not None else found


def _index(tensor: Any) -> int:
    return int(tensor.index if isinstance(tensor, StoredTensor) else tensor.value_index)


def _called(op: Any) -> list[str]:
    names = []
    for attribute in _ops.CALLS.get(op.type, ()):
        value = op.get_attr(attribute)
        names += [function.name for function in (value if isinstance(value, list) else [value])]
    return names


def _is_passed_over(op: Any) -> bool:
    return graphs.is_nanguards(op) or (op.type in _ops.NEVER_RUN and not op.outputs)


def _is_dropped(op: Any, used: set[int]) -> bool:
    """Whether an op leaves only its name behind: a replay does not run it, or nothing of the step asks for it."""
    if _is_passed_over(op) or op.type == "Placeholder":
        return True
    return not _ops.is_allowed(op.type) and not any(id(tensor) in used for tensor in op.outputs)


def _copy(op: Any, node: Any) -> None:
    node.input.extend(op.node_def.input)
    if not _ops.is_allowed(op.type):
        node.op = f"{_ops.UNAVAILABLE}{op.type}"
        return
    node.op = op.type
    for name, value in op.node_def.attr.items():
        if not name.startswith("_"):
            node.attr[name].CopyFrom(value)


class GraphReader:
    """Reads all graphs of a capture.

    Args:
        archive: The file.
        path: Its name, for messages.
        frames: The stacks.
        tensors: Captured values.
        handles: Captured variables.
    """

    def __init__(
        self, archive: Reader, path: str, frames: FrameReader, tensors: TensorReader, handles: list[Any]
    ) -> None:
        self._path = path
        self._frames = frames
        found = json.loads(archive.read(GRAPHS))
        self._layers = [str(layer) for layer in found["layers"]]
        tables = found["graphs"]
        self.graphs = [StoredGraph(str(table["name"]), is_loop=table["is_loop"] is True) for table in tables]
        for place, table in enumerate(tables):
            definition = tf.compat.v1.GraphDef.FromString(archive.read(f"graphs/{place}.pb"))
            self._fill(self.graphs[place], definition, table)
        for graph, table in zip(self.graphs, tables, strict=True):
            self._connect(graph, table, tensors, handles)
        self._check_calls()

    def graph(self, number: int) -> StoredGraph:
        """A graph by its number."""
        return _at(self.graphs, number)  # type: ignore[no-any-return]

    def tensor(self, place: list[int]) -> StoredTensor:
        """A tensor by graph, op and output."""
        graph, op, index = place
        return _at(_at(_at(self.graphs, graph).operations, op).outputs, index)  # type: ignore[no-any-return]

    def _fill(self, graph: StoredGraph, definition: Any, table: dict[str, Any]) -> None:
        for node, (_, dtypes, stack, layer, _) in zip(definition.node, table["ops"], strict=True):
            _ops.check(node.op, self._path)
            if node.op == "Const":
                _check_constant(node)
            graph.operations.append(
                StoredOp(
                    graph,
                    node,
                    [tf.dtypes.as_dtype(str(dtype)) for dtype in dtypes],
                    self._frames.stack(stack),
                    _at(self._layers, layer) if layer >= 0 else None,
                )
            )

    def _connect(self, graph: StoredGraph, table: dict[str, Any], tensors: TensorReader, handles: list[Any]) -> None:
        def inside(place: Sequence[int]) -> StoredTensor:
            return _at(_at(graph.operations, place[0]).outputs, place[1])  # type: ignore[no-any-return]

        for op, (inputs, _, _, _, forward) in zip(graph.operations, table["ops"], strict=True):
            op.inputs = [inside(pair) for pair in zip(inputs[::2], inputs[1::2], strict=True)]
            if forward is not None:
                op.set_forward(_at(self.graph(forward[0]).operations, forward[1]))
            graph.functions.update({name: self.graph(table["calls"][name]) for name in _called(op)})
        graph.inputs = [inside(place) for place in table["inputs"]]
        graph.outputs = [inside(place) for place in table["outputs"]]
        graph.outer_graph = self.graph(table["outer"]) if table["outer"] >= 0 else None
        for entry in table["captures"]:
            tensor = inside(entry["inside"])
            value: Any = StoredTensor(None, 0, tensor.dtype)
            if "handle" in entry:
                value = _at(handles, entry["handle"])
            elif "tensor" in entry:
                value = tensors.get(entry["tensor"])
            graph.captures.append((value, tensor))

    def _check_calls(self) -> None:
        """Makes sure that no graph calls itself, nor lies in itself."""
        callees = [{id(callee): callee for callee in graph.functions.values()}.values() for graph in self.graphs]
        _check_acyclic(self.graphs, callees)
        _check_acyclic(self.graphs, [[g.outer_graph] if g.outer_graph is not None else [] for g in self.graphs])


def _check_acyclic(found: list[StoredGraph], following: list[Any]) -> None:
    places = {id(graph): place for place, graph in enumerate(found)}
    waits = [len(each) for each in following]
    users: dict[int, list[int]] = {}
    for place, each in enumerate(following):
        for graph in each:
            users.setdefault(places[id(graph)], []).append(place)
    ready = [place for place, count in enumerate(waits) if not count]
    done = 0
    while ready:
        done += 1
        for user in users.get(ready.pop(), ()):
            waits[user] -= 1
            if not waits[user]:
                ready.append(user)
    if done != len(found):
        raise ValueError("its functions call one another in a circle")


def _check_constant(node: Any) -> None:
    value = node.attr["value"].tensor
    size = 1
    for dimension in value.tensor_shape.dim:
        size *= max(int(dimension.size), 0)
    if size > _MOST_CONSTANT or value.tensor_shape.unknown_rank:
        raise ValueError(f"the constant {node.name[:60]!r} has {size} values")


def _at(things: list[Any], place: Any) -> Any:
    if not isinstance(place, int) or not 0 <= place < len(things):
        raise ValueError(f"{place!r} is no place in a table of {len(things)}")
    return things[place]
