"""In a loop of one's own a guarded step that was refused leaves no trace, whichever way the guard is put in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard as ng

# By its path: the tests are no package.
sys.path.insert(0, str(Path(__file__).parent))
from guardings import bad, batches, differences, everything, far, guard, sequential, with_bad

MODES = {"eager": lambda step: step, "graph": tf.function, "xla": lambda step: tf.function(step, jit_compile=True)}
every_mode_xla_long = pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.long)])
every_style = pytest.mark.parametrize("style", ["GuardedOptimizer", "apply", "step"])


def model_of(dtype: str = "float32") -> Any:
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(dtype)
    try:
        return sequential(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
    finally:
        keras.config.set_dtype_policy("float32")


def adam() -> Any:
    return keras.optimizers.Adam(0.01)


def scaled_adam() -> Any:
    return keras.optimizers.LossScaleOptimizer(adam(), initial_scale=2.0**10, dynamic_growth_steps=3)


def looped(
    style: str, mode: str, parts: list[Any], *, new_optimizer: Any = adam, dtype: str = "float32", loop: Any = None
) -> tuple[dict[str, Any], Any]:
    """Trains in a loop of one's own; gives all that is left, and the count of refused steps."""
    model = model_of(dtype)
    optimizer = inner = new_optimizer()
    optimizer.build(model.trainable_variables)
    metric = keras.metrics.Mean("loss")
    watch = None
    if style == "GuardedOptimizer":
        optimizer = ng.GuardedOptimizer(inner, max_in_row=1000, verbose=False)
    elif style != "plain":
        watch = guard(model, inner, max_in_row=1000)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.cast(model(x, training=True), tf.float32) - y) ** 2)
            scaled = optimizer.scale_loss(loss)
        grads = tape.gradient(scaled, model.trainable_variables)
        if style == "apply":
            watch.apply(grads, loss=loss, batch=(x, y))
        else:
            optimizer.apply(grads, model.trainable_variables)
        metric.update_state(loss)
        return loss

    whole = MODES[mode](watch.step(step) if style == "step" else step)
    for x, y in parts:
        whole(tf.constant(x), tf.constant(y))
    found = everything(model, inner)
    if style != "apply":  # which does not see what comes after it
        found["metric"] = np.array([v.numpy() for v in metric.variables])
    refused = (
        optimizer.skipped if style == "GuardedOptimizer" else 0 if watch is None else watch._updater.ledger.skipped
    )
    return found, int(refused)


@every_style
@every_mode_xla_long
def test_a_refused_step_leaves_no_trace(style, mode):
    """NaN at the start, twice in a row and at the end leaves no trace; without it the guard changes no bit."""
    good = batches()
    found, refused = looped(style, mode, with_bad(good))
    expected, none = looped(style, mode, good)
    assert not differences(found, expected)
    assert (refused, none) == (4, 0)
    plain, _ = looped("plain", mode, good)
    plain = {key: value for key, value in plain.items() if key in expected}
    assert not (far if mode == "xla" else differences)(expected, plain)


@every_style
@every_mode_xla_long
def test_half_precision(style, mode):
    """With a dynamic loss scale, NaN in the data is refused and counted, and the scale stays."""
    good = batches()
    options = {"new_optimizer": scaled_adam, "dtype": "mixed_float16"}
    found, refused = looped(style, mode, with_bad(good), **options)
    expected, none = looped(style, mode, good, **options)
    assert not differences(found, expected)
    assert (refused, none) == (4, 0)


def one_weight(value: float = 1.0, optimizer: Any = None) -> tuple[Any, Any]:
    weight = keras.Variable([value, value])
    return weight, ng.GuardedOptimizer(optimizer or keras.optimizers.SGD(1.0), max_in_row=1000, verbose=False)


def test_gradients_that_no_tape_made():
    """Gradients that come from elsewhere are refused by themselves."""
    weight, optimizer = one_weight()
    optimizer.apply([tf.constant([np.inf, 1.0])], [weight])
    optimizer.apply_gradients([(tf.constant([0.5, 0.5]), weight)])
    np.testing.assert_array_equal(weight.numpy(), [0.5, 0.5])
    assert (int(optimizer.skipped), int(optimizer.in_row), int(optimizer.iterations)) == (1, 0, 1)


def test_in_row_counts_up_and_starts_again():
    """Steps in a row are counted, and one that goes ahead ends the row."""
    weight, optimizer = one_weight()
    for value, row in ((np.nan, 1), (np.nan, 2), (0.0, 0), (np.nan, 1)):
        optimizer.apply([tf.constant([value, 0.0])], [weight])
        assert int(optimizer.in_row) == row, value
    assert int(optimizer.skipped) == 3


def test_a_finite_sum_that_overflows_goes_ahead():
    """Gradients whose squares overflow are finite, and SGD may take them."""
    weight, optimizer = one_weight(0.0)
    optimizer.apply([tf.constant([1e30, -1e25])], [weight])
    np.testing.assert_array_equal(weight.numpy(), np.array([-1e30, 1e25], "float32"))
    assert int(optimizer.skipped) == 0


def test_an_update_that_overflows_is_undone():
    """A finite gradient whose square makes Adam's second moment infinite is refused, weights and slots as before."""
    weight, optimizer = one_weight(0.0, keras.optimizers.Adam(0.1))
    optimizer.apply([tf.constant([1.0, 1.0])], [weight])
    before = [v.numpy() for v in (weight, *optimizer.variables)]
    optimizer.apply([tf.constant([1e25, 1.0])], [weight])
    for old, new in zip(before, (weight, *optimizer.variables), strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert int(optimizer.skipped) == 1


def test_sparse_and_missing_gradients():
    """A NaN in sparse gradients is seen, and for a gradient of None Keras warns as ever."""
    table, other = keras.Variable(np.ones((4, 2), "float32")), keras.Variable([1.0])
    optimizer = ng.GuardedOptimizer(keras.optimizers.SGD(1.0), verbose=False)

    def sparse(value: float) -> Any:
        return tf.IndexedSlices(tf.constant([[value, 1.0]]), tf.constant([2]), tf.constant([4, 2]))

    optimizer.apply([sparse(np.nan), None], [table, other])
    np.testing.assert_array_equal(table.numpy(), 1)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([sparse(0.5), None], [table, other])
    np.testing.assert_array_equal(table.numpy()[2], [0.5, 0.0])


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_float16_weight(mode):
    """Weights of half precision overflow at 65504: such an update is undone."""
    weight = tf.Variable(tf.constant([6e4, 1.0], tf.float16))
    optimizer = ng.GuardedOptimizer(keras.optimizers.SGD(1.0), verbose=False)
    optimizer.build([weight])
    MODES[mode](lambda: optimizer.apply([tf.constant([-6e4, 0.0], tf.float16)], [weight]))()
    np.testing.assert_array_equal(weight.numpy(), np.array([6e4, 1.0], "float16"))
    assert int(optimizer.skipped) == 1


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.long)])
def test_bad_weights_and_slots_are_told_from_the_outside(mode):
    """A weight that something else made NaN is refused each time, and not written again."""
    weight, optimizer = one_weight(1.0, keras.optimizers.Adam())
    optimizer.build([weight])
    step = MODES[mode](lambda: optimizer.apply([tf.constant([1.0, 1.0])], [weight]))
    step()
    weight.assign([np.nan, 2.0])
    for _ in range(2):
        step()
    np.testing.assert_array_equal(weight.numpy(), [np.nan, 2.0])
    assert (int(optimizer.skipped), int(optimizer.iterations)) == (2, 1)


def test_the_loop_inside_the_function():
    """A loop over a data set within one traced function is guarded step by step."""
    good = batches()

    def run(parts: list[Any]) -> dict[str, Any]:
        model = model_of()
        optimizer = ng.GuardedOptimizer(adam(), verbose=False)
        optimizer.build(model.trainable_variables)
        x, y = (tf.constant(np.stack(column)) for column in zip(*parts, strict=True))

        @tf.function
        def train() -> None:
            for place in tf.range(len(parts)):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((model(x[place], training=True) - y[place]) ** 2)
                optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

        train()
        return everything(model, optimizer)

    assert not differences(run(with_bad(good)), run(good))


def test_loss_scale_has_a_floor():
    """After 150 bad batches the scale is 1, where Keras's own is 0, and the next good batch trains."""
    weight = keras.Variable([1.0, 1.0])
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    optimizer = ng.GuardedOptimizer(inner, max_in_row=1000, verbose=False)
    optimizer.build([weight])

    @tf.function
    def step(value: Any) -> None:
        optimizer.apply([tf.stack([value, 0.0])], [weight])

    for _ in range(150):
        step(tf.constant(np.inf))
    assert float(optimizer.dynamic_scale) == 1.0
    assert int(optimizer.skipped) > 100
    step(tf.constant(0.5))
    np.testing.assert_array_equal(weight.numpy(), [0.5, 1.0])


def test_relu_hides_the_nan():
    """A ReLU that turns NaN into 0 leaves the loss finite; the gradient is caught."""
    x, y = bad()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    before = model.get_weights()
    watch = guard()
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[watch])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    (event,) = watch.events
    assert "gradients" in event.seen_in


def test_two_tapes_and_two_guarded_optimizers():
    """Two guarded optimizers in one step each refuse their own update."""
    one, first = one_weight()
    two, second = one_weight()
    for value in (np.nan, 1.0):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(one * value)
        first.apply(tape.gradient(loss, [one]), [one])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(two * 2.0)
        second.apply(tape.gradient(loss, [two]), [two])
    np.testing.assert_array_equal(one.numpy(), 0)
    np.testing.assert_array_equal(two.numpy(), -3)
    assert (int(first.skipped), int(second.skipped)) == (1, 0)


def test_eager_guard_tells_of_the_batch(tmp_path):
    """`apply` in eager mode has an event with the rows, and puts the batch into quarantine."""
    weight = keras.Variable(np.zeros((6, 1), "float32"))
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    watch = ng.Guard(model, keras.optimizers.SGD(0.1), quarantine=tmp_path / "bad", verbose=False)
    x, y = bad()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((tf.matmul(x, weight) - y) ** 2)
    made = watch.apply(tape.gradient(loss, [weight]), [weight], loss=loss, batch=(x, y))
    assert not bool(made)
    (event,) = watch.events
    assert event.rows == (3,)
    assert event.reproduced is None
    assert Path(event.quarantined).exists()
    assert watch.num_skipped == 1


def test_too_many_in_a_row_stop_a_loop():
    """`max_in_row` refused steps stop an eager loop too, and a good one between them starts the count again."""
    weight = keras.Variable([1.0])
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    watch = guard(model, keras.optimizers.SGD(0.1), max_in_row=2)
    for value in (np.nan, 0.0, np.nan):
        watch.apply([tf.constant([value])], [weight])
    with pytest.raises(ng.NonFiniteError, match="2 steps in a row"):
        watch.apply([tf.constant([np.nan])], [weight])
    np.testing.assert_array_equal(weight.numpy(), [1.0])


def test_an_earlier_tape_is_no_step():
    """What is written after a tape that nobody differentiated is not put back by the next update that is refused."""
    weight = keras.Variable([1.0, 2.0])
    optimizer = ng.GuardedOptimizer(keras.optimizers.SGD(0.5), verbose=False)
    with tf.GradientTape():
        tf.reduce_sum(weight.value)
    weight.assign([3.0, 4.0])
    optimizer.apply([tf.constant([0.5, np.nan])], [weight])
    assert weight.numpy().tolist() == [3.0, 4.0]


@pytest.mark.parametrize("is_traced", [False, True], ids=["eager", "graph"])
def test_an_overflow_of_scaled_gradients_is_no_refusal(is_traced):
    """A loss scale that is too large is the business of its optimizer: the guard of a loop counts and tells nothing."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1e38)
    watch = ng.Guard(model, optimizer, quarantine=None, verbose=False)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            scaled = optimizer.scale_loss(loss)
        watch.apply(tape.gradient(scaled, model.trainable_variables), loss=loss)

    step = tf.function(step) if is_traced else step
    for _ in range(12):
        step(tf.fill([4, 2], 1e3), tf.fill([4, 1], 1e3))
    assert watch.events == []
    assert watch.num_skipped == 0
    assert float(optimizer.dynamic_scale) < 1e38
