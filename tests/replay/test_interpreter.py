"""A traced step that is run again op by op gives the numbers that TensorFlow itself gave."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard.backend import execution
from nanguard.backend.values import array
from nanguard.replay import program

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(4, 6)).astype("float32")


def gradient_of(function: Any) -> Any:
    """The function that gives the value and the gradient of another."""

    def both(x: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x)

    return both


def cond(x: Any) -> Any:
    return tf.cond(
        tf.reduce_sum(x) > 1e9, lambda: tf.exp(x), lambda: tf.cond(x[0, 0] < 9.0, lambda: x * 3.0, lambda: x)
    )


def while_loop(x: Any) -> Any:
    return tf.while_loop(lambda i, z: i < 4, lambda i, z: (i + 1, tf.sin(z) * x + z), (0, x))[1]


def ensured_shape(x: Any) -> Any:
    return tf.ensure_shape(x, [None, 6]) * 2.0


def nested_loops(x: Any) -> Any:
    total = x
    for _ in tf.range(2):
        for _ in tf.range(3):
            total = tf.tanh(total * 1.1) + x
    return total


def scan(x: Any) -> Any:
    return tf.scan(lambda state, row: tf.tanh(state * 0.5 + row), x, tf.zeros([6]))


def map_fn(x: Any) -> Any:
    return tf.map_fn(lambda row: tf.reduce_sum(row * row), x)


def tensor_array(x: Any) -> Any:
    rows = tf.TensorArray(tf.float32, size=4)
    for place in tf.range(4):
        rows = rows.write(place, tf.square(x[place]) + 1.0)
    return rows.stack()


def switch_case(x: Any) -> Any:
    branches = [lambda: x + 1.0, lambda: tf.exp(x), lambda: x * x]
    chosen = tf.argmax(tf.reduce_sum(x, 1), output_type=tf.int32)
    return tf.switch_case(chosen % 3, branches) + tf.switch_case(tf.constant(7), branches)


@tf.function
def helper(x: Any, *, power: int) -> Any:
    return tf.pow(tf.abs(x) + 1.0, float(power))


def nested_functions(x: Any) -> Any:
    return helper(x, power=2) + helper(helper(x, power=3), power=2)


@tf.custom_gradient
def clipped(x: Any) -> Any:
    return tf.exp(x), lambda upstream: tf.clip_by_value(upstream * tf.exp(x), -1.0, 1.0)


def custom_gradient(x: Any) -> Any:
    return clipped(x) * 2.0


def many_kinds(x: Any) -> Any:
    parts = tf.split(x, 3, axis=1)
    picked = tf.gather(x, [0, 2, 2]) + tf.one_hot([1, 2, 3], 6)
    padded = tf.pad(tf.stack(parts), [[0, 0], [0, 0], [1, 1]])
    whole = tf.einsum("ij,kj->ik", x, picked)
    return tf.reduce_sum(padded) + tf.reduce_max(whole[1:, ::2]) + tf.reduce_sum(tf.sort(x)[:, :2])


FUNCTIONS = [
    cond,
    while_loop,
    ensured_shape,
    nested_loops,
    scan,
    map_fn,
    tensor_array,
    switch_case,
    nested_functions,
    custom_gradient,
    many_kinds,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_value_and_gradient_of_control_flow(capturing: Any, replayed_outputs: Any, function: Any):
    """Branches, loops, lists of tensors, calls and own gradients: the replay's value and gradient are TensorFlow's."""
    capture, concrete = capturing(gradient_of(function), tf.constant(X))
    replayed = program.build(capture)
    assert replayed.failure is None
    expected = concrete(tf.constant(X))
    for found, wanted in zip(replayed_outputs(replayed, concrete.graph), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)


def training_step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
    """One step of training, to be traced."""
    loss_of = keras.losses.MeanSquaredError()
    optimizer.build(model.trainable_variables)

    def step(x: Any, y: Any) -> tuple[Any, ...]:
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return (loss, *gradients)

    return step


def make_lstm() -> tuple[Any, np.ndarray]:
    layers = keras.layers
    return keras.Sequential([keras.Input((6, 2)), layers.LSTM(3, return_sequences=True), layers.LSTM(2)]), X.reshape(
        2, 6, 2
    )


def make_gru_with_mask() -> tuple[Any, np.ndarray]:
    layers = keras.layers
    data = X.reshape(2, 6, 2).copy()
    data[0, 4:] = 0.0
    return keras.Sequential([keras.Input((6, 2)), layers.Masking(), layers.GRU(2)]), data


def make_convolution() -> tuple[Any, np.ndarray]:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    return model, RANDOM.normal(size=(4, 6, 6, 1)).astype("float32")


def make_embedding() -> tuple[Any, np.ndarray]:
    layers = keras.layers
    model = keras.Sequential([keras.Input((3,)), layers.Embedding(5, 4), layers.LayerNormalization(), layers.Flatten()])
    model.add(layers.Dense(2))
    return model, np.array([[0.0, 1.0, 4.0], [4.0, 4.0, 2.0]], np.float32)


@pytest.mark.parametrize("make", [make_lstm, make_gru_with_mask, make_convolution, make_embedding])
def test_training_step(capturing: Any, replayed_outputs: Any, make: Any):
    """Loss, gradients and all writes of a training step are TensorFlow's; the replay itself writes nothing."""
    keras.utils.set_random_seed(4)
    model, data = make()
    optimizer = keras.optimizers.Adam(0.01)
    x, y = tf.constant(data), tf.ones([len(data), 2])
    capture, concrete = capturing(training_step(model, optimizer, x, y), x, y)
    variables = [*model.variables, *optimizer.variables]
    before = [variable.numpy() for variable in variables]

    replayed = program.build(capture)
    assert replayed.failure is None
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)

    expected = tf.nest.flatten(concrete(x, y), expand_composites=True)
    for found, wanted in zip(replayed_outputs(replayed, concrete.graph), expected, strict=True):
        np.testing.assert_allclose(array(found), array(wanted), rtol=1e-5, atol=1e-6)
    for variable in variables:
        key = execution.identity_of(variable._value.handle)
        if key in replayed.after:
            np.testing.assert_allclose(replayed.after[key], variable.numpy(), rtol=1e-5, atol=1e-6)
    written = {key for key, _, _ in replayed.written}
    assert {execution.identity_of(v._value.handle) for v in model.trainable_variables} <= written


def test_gradient_ops_know_their_forward_op(capturing: Any):
    """A gradient op names the forward op that it belongs to, a forward op none."""
    capture, _ = capturing(lambda x: tf.gradients(tf.sqrt(x), x), tf.constant(X))
    replayed = program.build(capture)
    forward = {event.op: event.forward for event in replayed.events}
    assert forward["SqrtGrad"].type == "Sqrt"
    assert forward["Sqrt"] is None


def test_values_given_are_not_drawn_again(capturing: Any, replayed_outputs: Any):
    """Random numbers that the capture holds are used as they were."""

    def step(x: Any) -> tuple[Any, Any]:
        noise = tf.random.normal([4, 6])
        return noise, noise * x

    capture, concrete = capturing(step, tf.constant(X))
    (op,) = [op for op in concrete.graph.get_operations() if op.type == "RandomStandardNormal"]
    drawn = tf.constant(RANDOM.normal(size=(4, 6)), tf.float32)
    capture.body.values[id(op.outputs[0])] = drawn
    noise, product = replayed_outputs(program.build(capture), concrete.graph)
    np.testing.assert_array_equal(noise, drawn)
    np.testing.assert_array_equal(product, drawn * X)


def test_written_state_is_seen_by_later_reads(capturing: Any, replayed_outputs: Any):
    """All ways to write a variable change what the step reads afterwards, and the script's variable keeps its value."""
    weight = tf.Variable(tf.zeros([5, 2]))
    count = tf.Variable(3, dtype=tf.int64)

    def step(x: Any) -> tuple[Any, ...]:
        weight.assign(x[:5, :2])
        weight.assign_add(tf.ones([5, 2]))
        weight.assign_sub(tf.fill([5, 2], 0.25))
        first = weight.read_value()
        weight.scatter_add(tf.IndexedSlices(tf.ones([3, 2]), [1, 1, 4]))
        weight.scatter_sub(tf.IndexedSlices(tf.ones([1, 2]), [0]))
        weight.scatter_update(tf.IndexedSlices(tf.fill([1, 2], 7.0), [3]))
        weight.scatter_mul(tf.IndexedSlices(tf.fill([1, 2], 2.0), [2]))
        count.assign_add(2)
        return first, weight.read_value(), tf.gather(weight, [4, 0]), count.read_value()

    x = tf.constant(RANDOM.normal(size=(6, 4)), tf.float32)
    capture, concrete = capturing(step, x)
    replayed = program.build(capture)
    assert float(tf.reduce_sum(tf.abs(weight))) == 0.0
    assert int(count) == 3
    found = [array(value) for value in replayed_outputs(replayed, concrete.graph)]
    for each, wanted in zip(found, concrete(x), strict=True):
        np.testing.assert_allclose(each, array(wanted), rtol=1e-6)
    np.testing.assert_allclose(replayed.after[execution.identity_of(weight.handle)], weight, rtol=1e-6)


def test_update_that_was_made_is_not_made_twice(capturing: Any):
    """A write that the failed step had made before it was stopped is left out of the replay."""
    weight = tf.Variable([1.0])
    capture, _ = capturing(lambda x: weight.assign_add(x).read_value(), tf.constant([2.0]))
    key = execution.identity_of(weight.handle)
    assert float(program.build(capture).after[key][0]) == 3.0
    capture.body.written.add(key)
    assert float(program.build(capture).after[key][0]) == 1.0


def test_op_that_raises_ends_the_program(capturing: Any):
    """What raises op by op is noted with the op and its message; what came before it is there."""

    def step(logits: Any, labels: Any) -> Any:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.nn.relu(logits))

    capture, _ = capturing(step, tf.constant(X), tf.constant([0, 1, 99, 2]))
    replayed = program.build(capture)
    assert replayed.failure is not None
    assert replayed.failure.event.op == "SparseSoftmaxCrossEntropyWithLogits"
    assert "99" in replayed.failure.message
    assert replayed.events[-1].op == "Relu"


# -- running a step again with other inputs


def test_step_with_other_inputs(capturing: Any):
    """Other inputs or weights make the step finite or not, and the first run's values stay as they were."""
    weight = tf.Variable([1.0, 1.0])

    def step(x: Any) -> Any:
        return tf.reduce_sum(tf.math.log(x * weight))

    capture, concrete = capturing(step, tf.constant([2.0, 0.0]))
    replayed = program.build(capture)
    target = replayed.numbers[id(concrete.graph.outputs[0])]
    (leaf,) = [number for number in replayed.leaves if replayed.values[number] is not None
               and replayed.values[number].dtype == tf.float32 and replayed.values[number].shape == (2,)]  # fmt: skip
    key = execution.identity_of(weight.handle)
    assert not replayed.is_finite(target)
    assert replayed.is_finite_with([target]) is False
    assert replayed.is_finite_with([target], leaves={leaf: tf.constant([2.0, 1.0])}) is True
    assert replayed.is_finite_with([target], leaves={leaf: tf.constant([2.0, 1.0])}, variables={key: -weight}) is False
    assert replayed.is_finite_with([target], leaves={leaf: tf.constant([1.0, 2.0, 3.0])}) is None
    assert not replayed.is_finite(target)
    np.testing.assert_array_equal(weight, [1.0, 1.0])


def test_step_that_writes_runs_anew_each_time(capturing: Any):
    """A second run starts from the variables before the step, not from what the first run wrote."""
    weight = tf.Variable(0.0)

    def step(x: Any) -> Any:
        weight.assign_add(x)
        return tf.math.log(2.0 - weight)

    capture, concrete = capturing(step, tf.constant(1.5))
    replayed = program.build(capture)
    target = replayed.numbers[id(concrete.graph.outputs[0])]
    assert [replayed.is_finite_with([target]) for _ in range(3)] == [True, True, True]


def test_half_precision_widened(capturing: Any):
    """Run in float32, a step is finite that overflows in float16, or whose epsilon float16 rounds to 0."""

    def step(x: Any) -> tuple[Any, Any]:
        x = tf.cast(x, tf.float16)
        return tf.reduce_sum(x * x), 1.0 / (x - x + tf.constant(1e-8, tf.float16))

    capture, concrete = capturing(step, tf.constant([300.0, 2.0]))
    replayed = program.build(capture)
    for tensor in concrete.graph.outputs:
        target = replayed.numbers[id(tensor)]
        assert replayed.is_finite_with([target]) is False
        assert replayed.is_finite_with([target], is_widened=True) is True


def test_only_what_a_target_needs_is_run(capturing: Any):
    """An op that raises with other inputs does not matter to a target that does not need it."""

    def step(x: Any) -> tuple[Any, Any]:
        return tf.reduce_sum(x), tf.reshape(x, [2])

    capture, concrete = capturing(step, tf.constant([1.0, 2.0]))
    replayed = program.build(capture)
    total, shaped = (replayed.numbers[id(tensor)] for tensor in concrete.graph.outputs)
    (leaf,) = [number for number in replayed.leaves if replayed.values[number].shape == (2,)
               and replayed.values[number].dtype == tf.float32]  # fmt: skip
    other = {leaf: tf.constant([1.0, 2.0, 3.0])}
    assert replayed.is_finite_with([total], leaves=other) is True
    assert replayed.is_finite_with([shaped], leaves=other) is None
