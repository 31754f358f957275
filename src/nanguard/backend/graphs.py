"""What a traced graph is made of: its functions, its captures, the stacks of its ops."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context as _context
from tensorflow.python.eager.polymorphic_function import atomic_function as _atomic_function
from tensorflow.python.framework import func_graph as _func_graph
from tensorflow.python.framework import function_def_to_graph as _function_def_to_graph
from tensorflow.python.framework import ops as _ops
from tensorflow.python.ops import control_flow_util as _control_flow_util
from tensorflow.python.ops import control_flow_v2_func_graphs as _control_flow_graphs

from nanguard.backend.stored import StoredGraph, StoredOp

FuncGraph = _func_graph.FuncGraph
_rebuilt: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def current() -> Any | None:
    """The function graph that is being traced on this thread, or None in eager mode."""
    if tf.executing_eagerly():
        return None
    graph = _ops.get_default_graph()
    return graph if isinstance(graph, FuncGraph) else None


def outer(graph: Any) -> Any | None:
    """The function graph in which a graph is being traced, or None if that is eager mode."""
    around = graph.outer_graph
    return around if isinstance(around, FuncGraph) else None


def is_at_hand(tensor: Any) -> bool:
    """Whether a tensor can be used where the code is now: it is eager, or of this graph or one around it."""
    if isinstance(tensor, _ops.EagerTensor):
        return True
    graph = current()
    while graph is not None and graph is not tensor.graph:
        graph = outer(graph)
    return graph is not None


def is_branch(graph: Any) -> bool:
    """Whether the graph is a branch of a conditional, which runs with its parent's inputs."""
    return isinstance(graph, _control_flow_graphs.CondBranchFuncGraph)


def is_loop(graph: Any) -> bool:
    """Whether the graph is the body of a loop, or the gradient of one."""
    if isinstance(graph, StoredGraph):
        return graph.is_loop
    return isinstance(graph, _control_flow_graphs.WhileBodyFuncGraph) or "while_grad_body" in getattr(graph, "name", "")


def step_graph(graph: Any) -> Any:
    """The graph of the function or loop body that the graph is a part of: what can be run again from its inputs."""
    while is_branch(graph) and isinstance(graph.outer_graph, FuncGraph):
        graph = graph.outer_graph
    return graph


def is_compiled(graph: Any) -> bool:
    """Whether the graph is being traced for XLA, where no host callback can run."""
    return bool(_control_flow_util.GraphOrParentsInXlaContext(graph))


def is_nanguards(op: Any) -> bool:
    """Whether an op is one that nanguard itself has put into the step."""
    return any(part == "nanguard" or part.startswith("nanguard_") for part in op.name.split("/"))


def is_traced(graph: Any) -> bool:
    """Whether the graph is that of a traced function, or one out of a file."""
    return isinstance(graph, (FuncGraph, StoredGraph))


def num_operations(graph: Any) -> int:
    """Number of ops that the graph holds so far; an op's own number is its place in this count."""
    return int(graph.num_operations())


def external(graph: Any, tensor: Any) -> Any | None:
    """The eager tensor that a captured input of the graph stands for, or None if it stands for none."""
    while True:
        for outside, inside in graph.captures:
            if inside is tensor:
                tensor = outside
                break
        else:
            return None
        if isinstance(tensor, _ops.EagerTensor):
            return tensor
        graph = tensor.graph
        if not isinstance(graph, FuncGraph):
            return None


def captured(graph: Any) -> list[Any]:
    """The eager tensors, handles of variables among them, that a traced graph takes from outside."""
    return [outside for outside, _ in graph.captures if isinstance(outside, _ops.EagerTensor)]


def called(graph: Any, name: str) -> Any:
    """The graph of a function that an op of `graph` calls: the traced one, whose ops know their source lines."""
    if isinstance(graph, StoredGraph):
        return graph.functions[name]
    owner = graph
    while owner is not None:
        function = owner._get_function(name)
        if function is not None:
            return function.graph
        owner = getattr(owner, "outer_graph", None)
    return defined(name)


def defined(name: str) -> Any:
    """The graph of a function that the runtime knows by name."""
    traced = _traced.get(name)
    if traced is not None:
        return traced
    graph = _rebuilt.get(name)
    if graph is None:
        graph = _function_def_to_graph.function_def_to_graph(_context.context().get_function_def(name))
        _rebuilt[name] = graph
    return graph


_traced: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def remember(name: str, graph: Any) -> None:
    """Notes which traced graph the runtime's function `name` was made of."""
    _traced[name] = graph


def is_compiled_function(name: str) -> bool:
    """Whether the runtime's function `name`, or one that it calls, is compiled by XLA."""
    seen: set[str] = set()
    waiting = [name]
    ctx = _context.context()
    while waiting:
        current_name = waiting.pop()
        if current_name in seen or not ctx.has_function(current_name):
            continue
        seen.add(current_name)
        definition = ctx.get_function_def(current_name)
        if definition.attr["_XlaMustCompile"].b:
            return True
        for node in definition.node_def:
            if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
                if node.attr["_XlaMustCompile"].b:
                    return True
                waiting.append(node.attr["f"].func.name)
            elif node.op in ("While", "StatelessWhile"):
                waiting.append(node.attr["body"].func.name)
            elif node.op in ("If", "StatelessIf"):
                waiting += [node.attr["then_branch"].func.name, node.attr["else_branch"].func.name]
    return False


_layers: weakref.WeakKeyDictionary[Any, list[tuple[int, int, str]]] = weakref.WeakKeyDictionary()
_places: weakref.WeakKeyDictionary[Any, dict[str, int]] = weakref.WeakKeyDictionary()


def note_layer(graph: Any, first: int, path: str) -> None:
    """Notes that the ops from number `first` to the newest were made in a call of the layer at `path`."""
    _layers.setdefault(graph, []).append((first, num_operations(graph), path))


def layer(op: Any) -> str | None:
    """Path of the innermost layer in whose call the op was made, looking outwards from branches and loop bodies."""
    if isinstance(op, StoredOp):
        return op.layer
    graph = op.graph
    notes = _layers.get(graph, [])
    if notes:
        places = _places.get(graph)
        if places is None or len(places) != num_operations(graph):
            places = _places[graph] = {each.name: place for place, each in enumerate(graph.get_operations())}
        place = places.get(op.name, -1)
        inside = [(last - first, path) for first, last, path in notes if first <= place < last]
        if inside:
            return min(inside)[1]
    return _outer_layer.get(graph)


_outer_layer: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def note_outer_layer(graph: Any, path: str) -> None:
    """Notes that the graph itself was traced in a call of the layer at `path`."""
    _outer_layer[graph] = path


@contextlib.contextmanager
def gradient_of(graph: Any, op: Any) -> Iterator[None]:
    """Marks the ops made in this block as the gradient of `op`, as `tf.gradients` does for its own."""
    with graph._original_op(op):
        yield


def forward_op(op: Any) -> Any | None:
    """The forward op that a gradient op belongs to, or None for an op of the forward pass."""
    return op._original_op


def frames(op: Any) -> list[tuple[str, int, str]]:
    """The Python stack that made the op, outermost first: file, line, function. AutoGraph's copies are mapped back."""
    try:
        return [(frame.filename, int(frame.lineno), frame.name) for frame in op.traceback]
    except (AttributeError, TypeError, ValueError):  # an op rebuilt from a definition has no stack
        return []


def conditional_of(result: Any) -> Any:
    """Gives the op of the conditional that made a tensor or op, or None for an eager tensor."""
    if not isinstance(result, tf.Operation) and not tf.is_symbolic_tensor(result):
        return None
    op = result if isinstance(result, tf.Operation) else result.op
    while op.type == "Identity":
        op = op.inputs[0].op
    return op


def call_again(graph: Any) -> list[Any]:
    """Calls a branch that was traced before, where the code is now: it takes from outside what it took there.

    Gives the branch's outputs, flat.
    """
    function = _atomic_function.from_func_graph(f"{graph.name}_again", graph, {})
    return list(function.call_flat(*graph.external_captures))


def run_unlowered(op: Any) -> None:
    """Keeps a conditional one op: lowered to switches, each of its inputs would cost a node in every step."""
    if op is not None and op.type in ("If", "StatelessIf"):
        op._set_attr("_lower_using_switch_merge", tf.compat.v1.AttrValue(b=False))
