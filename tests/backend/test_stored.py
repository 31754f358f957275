"""A stored graph answers as a traced one does."""

from __future__ import annotations

import tensorflow as tf

from nanguard.backend import execution, graphs
from nanguard.backend.stored import StoredFrame, StoredGraph, StoredOp, StoredTensor, new_handle


def stored() -> tuple[StoredGraph, StoredOp]:
    """A graph of one op."""
    graph = StoredGraph("step", is_loop=True)
    node = tf.compat.v1.NodeDef(name="call/Log", op="PartitionedCall")
    node.attr["f"].func.name = "inner"
    node.attr["T"].type = tf.float32.as_datatype_enum
    op = StoredOp(graph, node, [tf.float32], [StoredFrame("train.py", 3, "call")], "model/log")
    graph.operations.append(op)
    return graph, op


def test_a_stored_op_answers_as_a_traced_one() -> None:
    """Stack, layer, loop and called function of a stored op come by the same functions as those of a traced one."""
    graph, op = stored()
    inner = StoredGraph("inner", is_loop=False)
    graph.functions["inner"] = inner
    assert graphs.frames(op) == [("train.py", 3, "call")]
    assert graphs.layer(op) == "model/log"
    assert graphs.is_loop(graph)
    assert not graphs.is_loop(inner)
    assert graphs.called(graph, op.get_attr("f").name) is inner
    assert graphs.forward_op(op) is None
    op.set_forward(op)
    assert graphs.forward_op(op) is op
    assert graphs.num_operations(graph) == 1
    assert graphs.is_traced(graph)
    assert op.outputs[0].name == "call/Log:0"
    assert "T" in execution.attributes(op)


def test_a_capture_of_a_stored_graph() -> None:
    """A captured input stands for its eager tensor, or for none."""
    graph, op = stored()
    value = tf.constant(1.0)
    graph.captures = [(value, op.outputs[0])]
    assert graphs.external(graph, op.outputs[0]) is value
    graph.captures = [(StoredTensor(None, 0, tf.float32), op.outputs[0])]
    assert graphs.external(graph, op.outputs[0]) is None


def test_handles_are_told_apart() -> None:
    """Each handle is one of its own, of no variable."""
    first, second = new_handle(tf.float32, None), new_handle(tf.float32, None)
    assert first.dtype == tf.resource
    assert execution.identity_of(first) != execution.identity_of(second)


def test_ours_are_told_by_name() -> None:
    """An op is nanguard's own by a part of its name."""
    _, op = stored()
    assert not graphs.is_nanguards(op)
    op.name = "step/nanguard_1/Sum"
    assert graphs.is_nanguards(op)


def test_definition_and_function_name() -> None:
    """TensorFlow tells what an op is, and the name of a function that is an attribute."""
    definition = execution.definition("ReadFile")
    assert definition is not None
    assert definition.input_arg[0].type == execution.STRING
    assert execution.definition("NoSuchOp") is None
    assert execution.function_name(execution._Function("f")) == "f"
    assert execution.function_name(3) is None
