"""The private parts of TensorFlow's eager runtime that nanguard stands on; a test's name says what moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from nanguard.backend import execution


def op_of(function: Any, *args: Any, kind: str) -> tuple[Any, list[Any]]:
    """The op of a type in the graph that a function is traced to, and the values of its inputs."""
    graph = tf.function(function).get_concrete_function(*args).graph
    op = next(op for op in graph.get_operations() if op.type == kind)
    given = {id(tensor): value for tensor, value in zip(graph.inputs, args, strict=True)}
    return op, [given[id(each)] if id(each) in given else tf.constant(tf.get_static_value(each)) for each in op.inputs]


def test_quick_execute_runs_an_op_by_its_type():
    """An op runs from its type, its inputs and its attributes alone."""
    attrs = ("T", tf.float32.as_datatype_enum, "transpose_a", False, "transpose_b", True)
    (product,) = execution.run_op("MatMul", [tf.ones([2, 3]), tf.ones([4, 3])], attrs, 1)
    np.testing.assert_array_equal(product, np.full((2, 4), 3.0, np.float32))


def test_quick_execute_takes_what_was_left_out_as_left_out():
    """An attribute that a recording has as None, such as the axes of a squeeze, has its default."""
    attrs = ("T", tf.float32.as_datatype_enum, "squeeze_dims", None)
    (squeezed,) = execution.run_op("Squeeze", [tf.ones([1, 2, 1])], attrs, 1)
    assert squeezed.shape == (2,)
    given = ("dtype", tf.float32.as_datatype_enum, "shape", None, "shared_name", None, "container", "")
    (handle,) = execution.run_op("VarHandleOp", [], given, 1)
    assert handle.dtype == tf.resource


def test_quick_execute_runs_an_op_without_outputs():
    """An op with an effect alone gives an empty list."""
    variable = tf.Variable(1.0)
    attrs = ("dtype", tf.float32.as_datatype_enum)
    assert execution.run_op("AssignVariableOp", [variable.handle, tf.constant(2.0)], attrs, 0) == []
    assert float(variable) == 2.0


@pytest.mark.parametrize(
    ("kind", "function", "shapes"),
    [
        pytest.param(
            "Conv2D",
            lambda x, k: tf.nn.conv2d(x, k, strides=2, padding="VALID"),
            ([1, 5, 5, 2], [3, 3, 2, 4]),
            id="lists-of-ints-and-strings",
        ),
        pytest.param("Sum", lambda x: tf.reduce_sum(x, 1, keepdims=True), ([2, 3],), id="bools"),
        pytest.param("Split", lambda x: tf.split(x, 3, axis=1), ([2, 3],), id="ints"),
        pytest.param("LeakyRelu", lambda x: tf.nn.leaky_relu(x, 0.25), ([2, 3],), id="floats"),
        pytest.param("Cast", lambda x: tf.cast(x, tf.float64), ([2, 3],), id="types"),
        pytest.param("IdentityN", lambda x: tf.identity_n([x, x]), ([2, 3],), id="lists-of-types"),
        pytest.param("Squeeze", tf.squeeze, ([1, 3],), id="empty-lists"),
        pytest.param("EnsureShape", lambda x: tf.ensure_shape(x, [None, 3]), ([2, 3],), id="shapes"),
    ],
)
def test_node_def_attributes_of_a_graph_op_run_it_eagerly(kind: str, function: Any, shapes: Any):
    """The attributes that a graph op carries, read as `attributes` reads them, give the same op when run eagerly."""
    values = [tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32) for shape in shapes]
    op, inputs = op_of(function, *values, kind=kind)
    results = execution.run_op(kind, inputs, execution.attributes(op), len(op.outputs))
    for result, expected in zip(results, tf.nest.flatten(function(*values)), strict=True):
        np.testing.assert_array_equal(result, expected)


def test_node_def_lists_of_shapes_run_an_op_eagerly():
    """A list of shapes, as the gradient of a branch carries one, is handed on too."""

    def function(x: tf.Tensor) -> tf.Tensor:
        filled = tf.raw_ops.OptionalFromValue(components=[x])
        return tf.raw_ops.OptionalGetValue(optional=filled, output_types=[x.dtype], output_shapes=[x.shape])[0]

    value = tf.constant([1.0, 2.0])
    graph = tf.function(function).get_concrete_function(value).graph
    op = next(op for op in graph.get_operations() if op.type == "OptionalGetValue")
    filled = tf.raw_ops.OptionalFromValue(components=[value])
    (result,) = execution.run_op("OptionalGetValue", [filled], execution.attributes(op), 1)
    np.testing.assert_array_equal(result, value)


def test_node_def_names_functions_that_the_eager_runtime_takes():
    """A function attribute is handed on by its name."""

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        return x * 3.0

    op, inputs = op_of(lambda x: inner(x) + 1.0, tf.constant(2.0), kind="PartitionedCall")
    (result,) = execution.run_op("PartitionedCall", inputs, execution.attributes(op), 1)
    assert float(result) == 6.0


def test_eager_tensor_id_is_never_used_twice():
    """Numbers of eager tensors are unique, those of tensors that are gone included."""
    seen = {execution.identity_of(tf.constant(float(place))) for place in range(100)}
    assert len(seen) == 100
    variable = tf.Variable(1.0)
    assert execution.identity_of(variable.handle) == execution.identity_of(variable.handle)


def test_op_callbacks_see_eager_ops():
    """A callback is told of each eager op and its tensors, the backward pass included, until it is removed."""
    seen: list[tuple[str, list[int], list[int]]] = []

    def callback(op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        if graph is None:
            name = op_type.decode() if isinstance(op_type, bytes) else op_type
            seen.append((name, [each._id for each in inputs], [each._id for each in outputs or ()]))

    x = tf.constant([1.0, 4.0])
    assert not execution.is_watched(callback)
    execution.watch_ops(callback)
    try:
        assert execution.is_watched(callback)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.sqrt(x)
        tape.gradient(y, x)
    finally:
        execution.unwatch_ops(callback)
    assert not execution.is_watched(callback)
    assert ("Sqrt", [x._id], [y._id]) in seen
    assert "SqrtGrad" in [name for name, _, _ in seen]
    count = len(seen)
    tf.sqrt(x)
    execution.unwatch_ops(callback)  # a second time is no error
    assert len(seen) == count


def test_op_callbacks_see_the_call_of_a_traced_function():
    """The call of a traced function is one op by the function's name, which begins with two underscores."""
    seen: list[str] = []

    def callback(op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        if graph is None:
            seen.append(op_type.decode() if isinstance(op_type, bytes) else op_type)

    function = tf.function(lambda x: x * 2.0)
    function(tf.constant(1.0))
    execution.watch_ops(callback)
    try:
        function(tf.constant(3.0))
    finally:
        execution.unwatch_ops(callback)
    assert [name for name in seen if name.startswith("__inference")]


def test_gradient_function_can_be_registered_again():
    """Every tape, eager or traced, runs gradients through the function that was registered last."""
    original = execution.gradient_function()
    seen: list[str] = []

    def counting(op_name: str, *args: Any) -> Any:
        seen.append(op_name)
        return original(op_name, *args)

    def slope(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.math.log(x)
        return tape.gradient(y, x)

    execution.set_gradient_function(counting)
    try:
        assert float(slope(tf.constant(4.0))) == 0.25
        assert seen == ["Log"]
        assert float(tf.function(slope)(tf.constant(2.0))) == 0.5
        assert seen == ["Log", "Log"]
    finally:
        execution.set_gradient_function(original)
    slope(tf.constant(4.0))
    assert seen == ["Log", "Log"]


def test_context_call_function_runs_every_traced_function(monkeypatch: pytest.MonkeyPatch):
    """A traced function that is called from Python goes through `Context.call_function` with its name and inputs."""
    owner = execution.context_class()
    original = owner.call_function
    seen: list[tuple[bytes, list[float]]] = []

    def call_function(context: Any, name: bytes, inputs: Any, num_outputs: int) -> Any:
        seen.append((name, [float(each) for each in inputs]))
        return original(context, name, inputs, num_outputs)

    monkeypatch.setattr(owner, "call_function", call_function)
    plain, compiled = tf.function(lambda x: x + 1.0), tf.function(lambda x: x + 1.0, jit_compile=True)
    assert float(plain(tf.constant(1.0))) == 2.0
    assert float(compiled(tf.constant(2.0))) == 3.0
    assert float(plain.get_concrete_function(tf.constant(0.0))(tf.constant(3.0))) == 4.0
    assert [values for _, values in seen] == [[1.0], [2.0], [3.0]]
    assert all(name.startswith(b"__inference") for name, _ in seen)


def test_read_variable_op_reads_by_the_handle():
    """A variable is read through its handle, and what was read stays as it was when the variable is written."""
    variable = tf.Variable([1.0, 2.0])
    before = execution.read_variable(variable.handle, tf.float32)
    variable.assign([3.0, 4.0])
    np.testing.assert_array_equal(before, [1.0, 2.0])
    variable.assign_add([1.0, 1.0])
    np.testing.assert_array_equal(execution.read_variable(variable.handle, tf.float32), [4.0, 5.0])


def test_op_def_registry_knows_type_attributes():
    """The registry of op definitions tells which attributes are dtypes; an unknown op has none."""
    assert execution.type_attributes("MatMul") == {"T"}
    assert execution.type_attributes("Cast") == {"SrcT", "DstT"}
    assert execution.type_attributes("IdentityN") == {"T"}
    assert execution.type_attributes("NoSuchOp") == frozenset()
