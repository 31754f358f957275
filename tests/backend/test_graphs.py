"""The private parts of traced graphs that nanguard stands on; a test's name says what moved."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from nanguard.backend import graphs

HERE = __file__


def traced(function: Any, *args: Any, **options: Any) -> Any:
    """The graph that a function is traced to."""
    return tf.function(function, **options).get_concrete_function(*args).graph


def ops_of(graph: Any, kind: str) -> list[Any]:
    """Ops of a type, in the order in which they were made."""
    return [op for op in graph.get_operations() if op.type == kind]


def test_default_graph_is_the_func_graph_that_is_being_traced():
    """Inside a traced function the current graph is its own; outside, and in `init_scope`, there is none."""
    seen: list[Any] = []

    def function(x: tf.Tensor) -> tf.Tensor:
        seen.append(graphs.current())
        with tf.init_scope():
            seen.append(graphs.current())
        return x + 1.0

    graph = traced(function, tf.constant(1.0))
    assert seen == [graph, None]
    assert isinstance(graph, graphs.FuncGraph)
    assert graphs.current() is None


def test_branches_and_loop_bodies_have_graph_classes_of_their_own():
    """The graphs of branches, loop bodies and the gradients of loops are told apart."""
    seen: dict[str, Any] = {}

    def note(name: str, value: tf.Tensor) -> tf.Tensor:
        seen[name] = graphs.current()
        return value

    def function(x: tf.Tensor) -> Any:
        seen["outer"] = graphs.current()
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cond(x > 0.0, lambda: note("branch", x * 2.0), lambda: x)
            y = tf.while_loop(lambda i, z: i < 3, lambda i, z: (i + 1, note("body", z * z)), (0, y))[1]
        return tape.gradient(y, x)

    graph = traced(function, tf.constant(1.0), autograph=False)
    assert graphs.is_branch(seen["branch"])
    assert not graphs.is_loop(seen["branch"])
    assert graphs.is_loop(seen["body"])
    assert not graphs.is_branch(seen["body"])
    assert not graphs.is_branch(graph)
    assert not graphs.is_loop(graph)
    assert graphs.step_graph(seen["branch"]) is graph
    assert graphs.step_graph(seen["body"]) is seen["body"]
    assert graphs.step_graph(graph) is graph
    bodies = [
        graphs.called(graph, op.get_attr("body").name)
        for op in graph.get_operations()
        if op.type in ("While", "StatelessWhile")
    ]
    assert len(bodies) == 2
    assert all(map(graphs.is_loop, bodies))


def test_xla_context_is_known_while_tracing():
    """A function that is traced for XLA is known to be, its branches and inner functions included."""
    seen: list[bool] = []

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        seen.append(graphs.is_compiled(graphs.current()))
        return x * 2.0

    def function(x: tf.Tensor) -> tf.Tensor:
        seen.append(graphs.is_compiled(graphs.current()))
        return tf.cond(x > 0.0, lambda: inner(x), lambda: x)

    traced(function, tf.constant(1.0), autograph=False)
    assert seen == [False, False]
    seen.clear()
    traced(function, tf.constant(1.0), autograph=False, jit_compile=True)
    assert seen[0] is True


def test_must_compile_attribute_marks_functions_of_xla():
    """A function with `jit_compile`, and one that calls it in whatever way, is known by its name to be compiled."""

    @tf.function(jit_compile=True)
    def inner(x: tf.Tensor) -> tf.Tensor:
        return x * 2.0

    kept = []  # the runtime forgets a function that nobody holds

    def is_compiled(function: Any) -> bool:
        kept.append(tf.function(function, autograph=False).get_concrete_function(tf.constant(1.0)))
        return graphs.is_compiled_function(kept[-1]._inference_function.name.decode())

    assert is_compiled(lambda x: inner(x) + 1.0)
    assert is_compiled(lambda x: tf.cond(x > 0.0, lambda: inner(x), lambda: x))
    assert is_compiled(lambda x: tf.while_loop(lambda z: z < 9.0, inner, (x,)))
    assert not is_compiled(lambda x: tf.cond(x > 0.0, lambda: x * 2.0, lambda: x))
    assert not graphs.is_compiled_function("no such function")
    compiled = inner.get_concrete_function(tf.constant(1.0))
    assert graphs.is_compiled_function(compiled._inference_function.name.decode())


def test_captures_lead_to_the_eager_tensor_outside():
    """A captured input stands for an eager tensor, through any number of graphs; an argument for none."""
    weight, inner_graph = tf.Variable([1.0]), []

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        inner_graph.append(graphs.current())
        return x * weight

    graph = traced(lambda x: tf.cond(x[0] > 0.0, lambda: x * weight, lambda: x), tf.constant([1.0]), autograph=False)
    (captured,) = [inside for _, inside in graph.captures]
    assert graphs.external(graph, captured) is weight.handle
    assert graphs.external(graph, graph.inputs[0]) is None
    branch = graphs.called(graph, ops_of(graph, "If")[0].get_attr("then_branch").name)
    assert weight.handle in [graphs.external(branch, tensor) for tensor in branch.inputs]
    traced(lambda x: inner(x), tf.constant([1.0]))
    assert graphs.external(inner_graph[0], inner_graph[0].inputs[-1]) is weight.handle


def test_graph_get_function_gives_the_traced_graph():
    """The function that a call names is found with the very graph that was traced, whose ops know their lines."""
    inner_graph = []

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        inner_graph.append(graphs.current())
        return tf.math.log(x)

    graph = traced(lambda x: inner(x), tf.constant(1.0))
    called = graphs.called(graph, ops_of(graph, "PartitionedCall")[0].get_attr("f").name)
    assert called is inner_graph[0]
    assert any(file == HERE and function == "inner" for file, _, function in graphs.frames(ops_of(called, "Log")[0]))


def test_function_def_can_be_rebuilt_to_a_graph():
    """A function that the runtime knows by name alone becomes a graph; its ops have no lines, which is no error."""
    concrete = tf.function(lambda x: tf.math.log(x)).get_concrete_function(tf.constant(1.0))
    name = concrete._inference_function.name.decode()
    graphs._traced.pop(name, None)
    rebuilt = graphs.defined(name)
    assert rebuilt is not concrete.graph
    assert [op.type for op in ops_of(rebuilt, "Log")] == ["Log"]
    assert isinstance(graphs.frames(ops_of(rebuilt, "Log")[0]), list)
    assert graphs.defined(name) is rebuilt
    graphs.remember(name, concrete.graph)
    assert graphs.defined(name) is concrete.graph


def test_remembered_graphs_are_let_go():
    """What is noted of a graph does not keep it alive."""
    graph = traced(lambda x: x + 1.0, tf.constant(1.0))
    graphs.remember("test_remembered", graph)
    graphs.note_layer(graph, 0, "layer")
    graphs.note_outer_layer(graph, "layer")
    del graph
    gc.collect()
    assert "test_remembered" not in graphs._traced


def test_original_op_marks_gradient_ops():
    """Ops made under `gradient_of` know the forward op that they belong to; others know of none."""
    found: dict[str, Any] = {}

    def function(x: tf.Tensor) -> tf.Tensor:
        y = tf.sqrt(x)
        with graphs.gradient_of(graphs.current(), y.op):
            found["inside"] = (x * 2.0).op
        found["forward"], found["outside"] = y.op, (x * 3.0).op
        return y

    graph = traced(function, tf.constant(1.0))
    assert graphs.forward_op(found["inside"]) is found["forward"]
    assert graphs.forward_op(found["outside"]) is None
    assert graphs.forward_op(found["forward"]) is None
    del graph


def test_tf_gradients_marks_gradient_ops_too():
    """`tf.gradients` marks its ops in the same way as `gradient_of` does."""
    graph = traced(lambda x: tf.gradients(tf.sqrt(x), x)[0], tf.constant(1.0))
    (gradient,) = ops_of(graph, "SqrtGrad")
    assert graphs.forward_op(gradient) is ops_of(graph, "Sqrt")[0]


def test_op_traceback_has_the_lines_that_made_it():
    """An op's stack, outermost first, ends in the user's line, mapped back from AutoGraph's copy of it."""

    @tf.function
    def function(x: tf.Tensor) -> tf.Tensor:
        if tf.reduce_any(x > 0.0):  # makes AutoGraph rewrite the function
            x = tf.math.log(x)
        return x

    line = function.python_function.__code__.co_firstlineno + 3
    graph = function.get_concrete_function(tf.constant([1.0])).graph
    call = next(op for op in graph.get_operations() if op.type in ("If", "StatelessIf"))
    branch = graphs.called(graph, call.get_attr("then_branch").name)
    frames = graphs.frames(ops_of(branch, "Log")[0])
    mine = [(number, name) for file, number, name in frames if file == HERE]
    assert line in [number for number, _ in mine]
    own = [place for place, (file, number, _) in enumerate(frames) if file == HERE and number == line]
    tests = [place for place, (file, _, name) in enumerate(frames) if file == HERE and name.startswith("test_")]
    assert tests[0] < own[0]


def test_num_operations_is_the_place_of_the_next_op():
    """The count of a graph's ops says which op comes next, so that a range of it tells a layer's ops."""
    places: list[int] = []

    def function(x: tf.Tensor) -> tf.Tensor:
        x = x + 1.0
        places.append(graphs.num_operations(graphs.current()))
        x = tf.sqrt(x)
        graphs.note_layer(graphs.current(), places[0], "outer/inner")
        x = tf.exp(x)
        graphs.note_layer(graphs.current(), 0, "outer")
        return tf.math.log(x)

    graph = traced(function, tf.constant(1.0))
    layers = {op.type: graphs.layer(op) for op in graph.get_operations()}
    assert graph.get_operations()[places[0]].type == "Sqrt"
    assert layers["Sqrt"] == "outer/inner"
    assert layers["Exp"] == layers["AddV2"] == "outer"
    assert layers["Log"] is None
    graphs.note_outer_layer(graph, "whole")
    assert graphs.layer(ops_of(graph, "Log")[0]) == "whole"
    assert graphs.layer(ops_of(graph, "Sqrt")[0]) == "outer/inner"


@pytest.mark.parametrize("jit_compile", [False, True])
def test_atomic_function_from_func_graph_calls_a_branch_again(jit_compile: bool) -> None:
    """A branch that was traced is called from another one: it reads and writes what it read and wrote there."""
    variable = tf.Variable(1.0)
    branches: list[Any] = []
    num_traced = []

    def update(x: tf.Tensor) -> tf.Tensor:
        num_traced.append(1)
        branches.append(graphs.current())
        variable.assign_add(x)
        return tf.cond(x > 10.0, lambda: variable * 2.0, lambda: variable * 3.0)

    def function(x: tf.Tensor) -> tf.Tensor:
        y = tf.square(x)

        def otherwise() -> tf.Tensor:
            before = variable.read_value()
            (result,) = graphs.call_again(branches[0])
            return result + 0.0 * before

        return tf.cond(x > 0.0, lambda: update(y), otherwise)

    compiled = tf.function(function, autograph=False, jit_compile=jit_compile)
    assert [float(compiled(tf.constant(x))) for x in (2.0, -2.0, -4.0)] == [15.0, 27.0, 50.0]
    np.testing.assert_array_equal(variable, 25.0)
    assert len(num_traced) == 1


def test_lower_using_switch_merge_keeps_a_conditional_whole():
    """The attribute that keeps a conditional from being lowered is the one that TensorFlow itself sets."""
    variable = tf.Variable(1.0)

    def function(x: tf.Tensor) -> tf.Tensor:
        result = tf.cond(x > 0.0, lambda: variable.assign_add(x), lambda: variable + 0.0)
        op = next(op for op in graphs.current().get_operations() if op.type == "If")
        assert op.get_attr("_lower_using_switch_merge") is True
        graphs.run_unlowered(op)
        assert op.get_attr("_lower_using_switch_merge") is False
        return result

    traced_function = tf.function(function, autograph=False)
    assert float(traced_function(tf.constant(2.0))) == 3.0
    assert float(traced_function(tf.constant(-2.0))) == 3.0
    np.testing.assert_array_equal(variable, 3.0)
