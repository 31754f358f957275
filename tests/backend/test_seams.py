"""The private classes of TensorFlow and Keras that the watch attaches to; a test's name says what moved."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard.backend import graphs, seams

Count = Callable[[Any, str], list[Any]]


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Gives a function that has a class or module note the arguments of each call of one of its attributes."""

    def patch(owner: Any, name: str) -> list[Any]:
        original = inspect.getattr_static(owner, name)
        calls: list[Any] = []

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)
        return calls

    return patch


def small_model(**options: Any) -> Any:
    """A compiled model and its data: one full batch and a smaller one."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(loss="mse", **{"optimizer": "sgd", "jit_compile": False, **options})
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    return model, rows, rows[:, :1]


def test_resource_variable_classes_define_assign(count: Count):
    """Every write of a variable, eager or traced, goes through the `assign` methods of these classes."""
    base, copy = seams.variable_classes()
    assert issubclass(copy, base)
    variable = tf.Variable(1.0)
    assert isinstance(variable, copy)
    for method in ("assign", "assign_add", "assign_sub"):
        owners = [kind for kind in (base, copy) if method in kind.__dict__]
        calls = [count(kind, method) for kind in owners]
        getattr(variable, method)(2.0)
        tf.function(lambda method=method: getattr(variable, method)(2.0))()
        assert sum(map(len, calls)) == 2, method


def test_keras_variable_assign_reaches_the_resource_variable(count: Count):
    """A Keras variable is written through the TensorFlow variable that `_value` holds."""
    variable = keras.Variable([1.0, 2.0])
    assert isinstance(variable._value, tf.Variable)
    calls = [count(kind, "assign") for kind in seams.variable_classes() if "assign" in kind.__dict__]
    variable.assign([3.0, 4.0])
    assert sum(map(len, calls)) == 1


def test_resource_variable_can_be_made_while_tracing():
    """A variable can be made in the middle of a trace, any number of times, and keeps what the graph writes to it."""
    made: list[Any] = []

    @tf.function
    def function(x: tf.Tensor) -> tf.Tensor:
        made.append(seams.new_variable(lambda: tf.zeros([]), "own"))
        made[-1].assign_add(tf.reduce_sum(x))
        return x

    function(tf.constant(1.0))
    function(tf.constant(2.0))
    assert len(made) == 1
    assert float(made[0]) == 3.0
    function(tf.constant([4.0]))
    assert float(made[1]) == 4.0


def test_atomic_function_keeps_the_traced_graph(monkeypatch: pytest.MonkeyPatch):
    """Each traced function becomes an AtomicFunction, which holds its name and the graph that was traced."""
    owner = seams.atomic_function_class()
    original = owner.__init__
    made: list[Any] = []

    def init(function: Any, *args: Any, **kwargs: Any) -> None:
        original(function, *args, **kwargs)
        made.append((function.name, function._cached_graph))

    monkeypatch.setattr(owner, "__init__", init)
    current: list[Any] = []

    @tf.function
    def function(x: tf.Tensor) -> tf.Tensor:
        current.append(graphs.current())
        return x + 1.0

    function(tf.constant(1.0))
    assert current[0] in [graph for _, graph in made]
    assert all(isinstance(name, bytes) for name, _ in made)


def test_func_graph_from_py_func_traces_functions_and_branches(count: Count):
    """Functions, branches and loop bodies are all traced by this one function, looked up in its module."""
    calls = count(seams.tracing_module(), "func_graph_from_py_func")
    tf.function(lambda x: x + 1.0).get_concrete_function(tf.constant(1.0))
    assert len(calls) == 1
    tf.function(
        lambda x: tf.cond(x > 0.0, lambda: x, lambda: tf.while_loop(lambda z: z < 1.0, lambda z: (z + 1.0,), (x,))[0])
    ).get_concrete_function(tf.constant(1.0))
    assert len(calls) == 1 + 1 + 2 + 2


def test_keras_layer_call_is_patched_through(count: Count):
    """Every layer, one inside another and a model itself included, is called through `Layer.__call__`."""
    model, rows, _ = small_model()
    calls = count(seams.keras_layer_class(), "__call__")
    model(rows)
    called = [type(args[0]).__name__ for args in calls]
    assert called[0] == "Sequential"
    assert "Dense" in called


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Lion", "Ftrl", "Muon"])
def test_keras_optimizer_apply_is_gone_through_by_every_update(name: str, count: Count):
    """`apply_gradients` of every optimizer calls the base class's `apply` once, and `iterations` counts it."""
    if not hasattr(keras.optimizers, name):
        pytest.skip("this Keras has no such optimizer")
    if name == "Muon" and tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        pytest.skip("this Keras cannot update with Muon on TensorFlow")
    optimizer = getattr(keras.optimizers, name)(0.1)
    variable = keras.Variable(np.ones((2, 2)), dtype="float32")
    calls = count(seams.keras_optimizer_class(), "apply")
    optimizer.apply_gradients([(tf.ones([2, 2]), variable)])
    assert len(calls) == 1
    assert isinstance(calls[0][0], keras.optimizers.Optimizer)
    assert int(optimizer.iterations.numpy()) == 1
    assert [v is variable for v in optimizer._trainable_variables] == [True]


def test_keras_loss_scale_optimizer_scales_through_its_own_methods(count: Count):
    """A loss scale is applied by `scale_loss` and its update by an `apply` of its own, whose inner optimizer counts."""
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=8.0)
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    scaled = count(seams.keras_loss_scale_class(), "scale_loss")
    applied = count(seams.keras_loss_scale_class(), "apply")
    assert float(optimizer.scale_loss(tf.constant(2.0))) == 16.0
    optimizer.apply_gradients([(tf.constant(8.0), variable)])
    assert (len(scaled), len(applied)) == (1, 1)
    assert float(variable.numpy()) == 0.5
    assert isinstance(optimizer.dynamic_scale._value, tf.Variable)
    assert int(optimizer.inner_optimizer._iterations.numpy()) == 1


def test_keras_fit_goes_through_the_trainer_and_the_callback_list(count: Count):
    """`fit` is the trainer's, makes its train function anew and tells the list of callbacks of each epoch."""
    model, x, y = small_model()
    fits = count(seams.keras_trainer_class(), "fit")
    makes = count(seams.keras_trainer_class(), "make_train_function")
    epochs = count(seams.keras_callbacks_class(), "on_epoch_begin")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert len(fits) == 1
    assert makes
    assert [args[1] for args in epochs] == [0, 1]


@pytest.mark.parametrize(("steps", "batch_size"), [(1, 2), (1, 4), (2, 2)])
def test_keras_train_function_takes_a_python_iterator(steps: int, batch_size: int):
    """The train function gives the same bits when each batch is pulled in Python."""
    results = []
    for direct in (False, True):
        model, x, y = small_model(steps_per_execution=steps)
        pulled: list[Any] = []
        model.make_train_function()
        function = seams.direct_train_function(model, model.train_function)
        if function is model.train_function and steps > 1:
            pytest.skip("this Keras traces several steps as one, and is left to it")
        assert function.is_nanguards
        if direct:

            def train_function(iterator: Any, function: Any = function, pulled: Any = pulled) -> Any:
                pulled.append(iterator)
                return function(iterator)

            model.train_function = train_function
        history = model.fit(x, y, batch_size=batch_size, epochs=2, shuffle=False, verbose=0).history
        assert bool(pulled) is direct
        results.append([*model.get_weights(), np.array(history["loss"])])
    for plain, direct_result in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, direct_result)


def test_keras_train_function_raises_at_the_end_of_data():
    """An iterator that has ended says so through the direct train function as it does through Keras's own."""
    model, x, y = small_model()
    model.make_train_function()
    function = seams.direct_train_function(model, model.train_function)
    iterator = iter(tf.data.Dataset.from_tensor_slices((x, y)).batch(6))
    function(iterator)
    with pytest.raises((StopIteration, tf.errors.OutOfRangeError)):
        function(iterator)


def test_strategy_batches_are_pulled_in_python():
    """Each epoch's iterator of a strategy gives its batches, the last smaller one too, and then ends."""
    x = np.arange(10.0, dtype="float32")
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    distributed = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices(x).batch(4))
    pulled = seams.puller()
    for _ in range(2):
        iterator = iter(distributed)
        assert isinstance(iterator, tf.distribute.DistributedIterator)
        batches = [strategy.experimental_local_results(batch)[0].numpy().tolist() for batch in pulled(iterator)]
        assert batches == [x[:4].tolist(), x[4:8].tolist(), x[8:].tolist()]


def test_other_iterators_are_pulled_as_they_are():
    """An iterator that Python can pull by itself is left alone."""
    iterator = iter(tf.data.Dataset.range(3))
    assert seams.puller()(iterator) is iterator


def test_keras_train_function_is_traced_once_for_all_batches():
    """No batch has the step traced anew: neither one of `fit` nor one that is given to `train_on_batch`."""
    model, x, y = small_model()
    traces: list[Any] = []
    loss = keras.losses.MeanSquaredError()

    def traced_loss(y_true: Any, y_pred: Any) -> Any:
        traces.append(graphs.current())
        return loss(y_true, y_pred)

    model.compile(optimizer="sgd", loss=traced_loss, jit_compile=False)
    model.make_train_function()
    model.train_function = seams.direct_train_function(model, model.train_function)
    model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    num_traces = len(traces)
    for _ in range(3):
        model.train_on_batch(x[:2], y[:2])
    assert num_traces <= 2
    assert len(traces) <= num_traces + 1


def test_recording_tape_says_so():
    """A tape knows whether it has been entered and not left."""
    tape = tf.GradientTape()
    assert not seams.is_recording(tape)
    with tape:
        assert seams.is_recording(tape)
    assert not seams.is_recording(tape)


def test_a_graph_knows_the_graph_around_it():
    """`outer_graph` of a branch leads out to the function that is being traced, and then to None."""
    depths = []

    def depth() -> int:
        graph, found = graphs.current(), 0
        while graph is not None:
            graph, found = graphs.outer(graph), found + 1
        return found

    @tf.function(autograph=False)
    def function(x: Any) -> Any:
        depths.append(depth())

        def branch() -> Any:
            depths.append(depth())
            return x

        return tf.cond(x > 0, branch, lambda: x)

    function(tf.constant(1.0))
    assert depths == [1, 2]
    assert depth() == 0


def test_distributed_variables_are_of_known_classes():
    """A mirrored variable, and one that is read by synchronising, have classes that write by methods of their own."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        for options in ({}, {"synchronization": tf.VariableSynchronization.ON_READ, "trainable": False}):
            variable = tf.Variable(1.0, aggregation=tf.VariableAggregation.MEAN, **options)
            assert isinstance(variable, seams.distributed_variable_classes())
            assert any("assign_add" in kind.__dict__ for kind in type(variable).__mro__)
            found: list[Any] = []
            strategy.run(lambda variable=variable, found=found: found.append(seams.local_component(variable)))
            assert found == [variable._values[0]]
            assert found[0].handle.dtype == tf.resource


def test_variable_made_while_tracing():
    """nanguard can make a variable within the second trace of a function, where a `tf.Variable` is refused."""
    made = []

    @tf.function
    def function(x: Any) -> Any:
        made.append(seams.new_variable(lambda: tf.constant(2.0), "nanguard_test"))
        return x * made[-1]

    assert float(function(tf.constant(1.0))) == 2.0
    assert float(function(tf.constant([3.0]))[0]) == 6.0
    assert len(made) >= 2
    assert made[0].name.startswith("nanguard_test")


def test_optimizer_is_built_as_its_first_apply_builds_it():
    """An optimizer that was built beforehand has the variables, by name, of one that built itself."""
    names = []
    for is_before in (False, True):
        variable, optimizer = keras.Variable(1.0, name="w"), keras.optimizers.Adam(name="adam")
        if is_before:
            seams.build_optimizer(optimizer, [variable])
        optimizer.apply([tf.constant(1.0)], [variable])
        names.append([v.path for v in optimizer.variables])
        assert optimizer.built
    assert names[0] == names[1]


def test_scheduled_rate():
    """A schedule's rate is that of the step under way, through a loss scale too; a rate that is a variable is None."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
    optimizer, variable = keras.optimizers.SGD(schedule), keras.Variable(1.0)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule))
    assert float(seams.scheduled_rate(optimizer)) == 1.0
    assert float(seams.scheduled_rate(scaled)) == 1.0
    optimizer.apply([tf.constant(0.0)], [variable])
    assert float(seams.scheduled_rate(optimizer)) == 0.5
    assert seams.scheduled_rate(keras.optimizers.SGD(0.1)) is None


@pytest.mark.parametrize("rate", [0.5, "schedule"])
def test_scaled_rate(rate: Any):
    """An update reads its rate from `_get_current_learning_rate` on the instance; open twice scales once."""
    if rate == "schedule":
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.5, 0.1])
    optimizer, variable, scale = keras.optimizers.SGD(rate), keras.Variable(1.0), tf.Variable(0.5)
    with seams.scaled_rate(optimizer, scale), seams.scaled_rate(optimizer, scale):
        optimizer.apply([tf.constant(1.0)], [variable])
    assert float(variable.numpy()) == 0.75
    with seams.scaled_rate(optimizer, None):
        optimizer.apply([tf.constant(1.0)], [variable])
    assert float(variable.numpy()) == 0.25
    assert "_get_current_learning_rate" not in vars(optimizer)


def test_log_keys_are_kept():
    """`fit` hands to callbacks what `_get_metrics_result_or_logs` on the instance gives: metrics, and our keys."""
    model, x, y = small_model()
    seams.keep_log_keys(model, "ours/")
    model.train_step, plain = (lambda data: {**plain(data), "ours/one": tf.constant(2.0)}), model.train_step
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history
    assert sorted(history) == ["loss", "ours/one"]
    assert history["ours/one"] == [2.0, 2.0]
    seams.forget_log_keys(model)
    assert "_get_metrics_result_or_logs" not in vars(model)
