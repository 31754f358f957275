"""What `assert_finite` finds, how small it makes it, and what it says of it."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard.errors import NonFiniteError, UsageError
from nanguard.testing import NonFiniteAssertion, _message, _numbers, assert_finite, domains


def dice(y_true: Any, y_pred: Any) -> Any:
    """Dice loss without a smoothing term."""
    hits = tf.reduce_sum(y_true * y_pred, axis=-1)
    return 1.0 - 2.0 * hits / tf.reduce_sum(y_true + y_pred, axis=-1)


def distance(x: Any) -> Any:
    """Length of each row; its gradient at 0 is not finite."""
    return tf.sqrt(tf.reduce_sum(x * x, axis=-1))


def pole(x: Any) -> Any:
    """A function that is finite everywhere but at one number."""
    return 1.0 / (x - 0.73)


def failure_of(function: Any, *positional: Any, **named: Any) -> NonFiniteAssertion:
    """The failure that must be there."""
    with pytest.raises(NonFiniteAssertion) as caught:
        assert_finite(function, *positional, **named)
    return caught.value


def run_code(failure: NonFiniteAssertion) -> list[np.ndarray]:
    """Runs the pasted code and gives the value or gradients that it prints."""
    code = failure.code.rsplit("\n", 1)
    assert code[1].startswith("print(")
    scope: dict[str, Any] = {}
    exec(compile(code[0], "<string>", "exec"), scope)
    return [np.asarray(each) for each in tf.nest.flatten(scope[code[1][len("print(") : -1]])]


def test_value_of_a_loss() -> None:
    """The empty mask is found and made one element, which the message shows with the line, the hazard and the cure."""
    failure = failure_of(
        dice, y_true=domains.masks((8, 10), dtype=None), y_pred=domains.probabilities((8, 10), independent=True)
    )
    assert (failure.part, failure.mode, failure.dtype, failure.hazard) == ("value", "eager", "float32", "NG105")
    assert {name: values.tolist() for name, values in failure.operands.items()} == {"y_true": [[0]], "y_pred": [[0]]}
    labels = [line[2:12].strip() for line in str(failure).splitlines() if line.startswith("  ") and line[2:3].strip()]
    assert labels == ["what", "where", "received", "needs", "fix", "more", "To reprodu"]
    assert "test_assert_finite.py" in str(failure)
    assert "return 1.0 - 2.0 * hits / tf.reduce_sum" in str(failure)
    assert isinstance(failure, AssertionError)
    assert isinstance(failure, NonFiniteError)


def test_gradient_alone() -> None:
    """A gradient that is not finite is found where the value is, and is named as such."""
    failure = failure_of(distance, domains.any_float((4, 3), low=-10, high=10))
    assert (failure.part, failure.hazard) == ("gradient", "NG301")
    np.testing.assert_array_equal(failure.operands["x"], [[0]])
    assert_finite(distance, domains.any_float((4, 3), low=-10, high=10), gradients=False, dtypes=["float32"])


@pytest.mark.one_in(2)
@pytest.mark.parametrize("where", [0.73, 0.2718, 123.456, -0.0037])
def test_pole_that_no_random_number_meets(where: float) -> None:
    """The gradient of the op leads to the one number, as float32 holds it."""
    failure = failure_of(
        lambda x: 1.0 / (x - where), domains.any_float((4,), low=where - 0.5, high=where + 0.5), dtypes=["float32"]
    )
    assert failure.part == "value"
    np.testing.assert_array_equal(failure.operands["x"], np.array([where], np.float32))


def test_pole_of_a_product_of_operands() -> None:
    """Several operands are moved together until they strike."""
    failure = failure_of(
        lambda x, y: tf.math.log(3.7 - x * y),
        domains.any_float((3,), low=1.0, high=2.0),
        domains.any_float((3,), low=1.0, high=1.86),
        dtypes=["float32"],
    )
    assert failure.hazard in ("NG101", "NG102")


def test_dtype_in_which_it_breaks() -> None:
    """An epsilon that float16 rounds away is found there and not in float32."""

    def entropy(p: Any) -> Any:
        return -tf.reduce_sum(p * tf.math.log(p + tf.cast(1e-8, p.dtype)), axis=-1)

    assert_finite(entropy, domains.probabilities((4, 3)), dtypes=["float32"])
    failure = failure_of(entropy, domains.probabilities((4, 3)), modes=["eager"])
    assert failure.dtype == "float16"
    assert failure.hazard == "NG402"


def test_xla_alone() -> None:
    """What only XLA gives is found, told as such, and with what eager mode says instead."""
    failure = failure_of(
        lambda labels, logits: tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits),
        domains.integers(0, 3, shape=2),
        domains.any_float((2, 3), low=-5, high=5),
        dtypes=["float32"],
        modes=["eager", "xla"],
    )
    assert failure.mode == "xla"
    assert failure.hazard == "NG707"
    assert "Only in XLA; in eager mode the same call raises InvalidArgumentError" in str(failure)
    assert "jit_compile=True" in failure.code


@pytest.mark.one_in(3)
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize(
    ("function", "domain"),
    [(pole, domains.any_float((4,), low=0.7, high=0.8)), (distance, domains.any_float((2, 2), low=-1, high=1))],
)
def test_code_reproduces(function: Any, domain: domains.Domain, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pasted code gives the number that is not finite."""
    monkeypatch.setitem(sys.modules, function.__module__, sys.modules[__name__])
    failure = failure_of(function, domain, modes=[mode], dtypes=["float32"])
    assert failure.mode == mode
    assert f"from {__name__} import {function.__name__}" in failure.code
    assert not all(np.isfinite(each).all() for each in run_code(failure))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_code_spells_numbers_exactly(dtype: str) -> None:
    """Each number of a counterexample is in the pasted code what it was: subnormal ones and -0.0 too."""
    held = _numbers.numpy_dtype(dtype)
    point = np.concatenate([each.reshape(-1) for each in domains.any_float((1,), infinities=True).specials(dtype)])
    for values in (point, np.full(9, point[-1]), np.array(point[4])):
        read = eval(_message._constant(values, dtype), {"tf": tf, "np": np})
        assert read.dtype == dtype
        assert read.numpy().tobytes() == values.astype(held).tobytes()


def test_same_each_time() -> None:
    """Two hunts find the same."""
    domain = domains.any_float((3, 4), low=0.1, high=1.0)
    first, second = (failure_of(pole, domain, dtypes=["float32"]) for _ in range(2))
    assert str(first) == str(second)


def test_layer_with_weights() -> None:
    """A layer is called with its own weights, whose gradients are looked at too."""

    class Scale(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=(), initializer="zeros")

        def call(self, x: Any) -> Any:
            return x * tf.sqrt(self.scale)

    failure = failure_of(Scale(), domains.any_float((2, 2), low=-1, high=1))
    assert failure.part == "gradient"
    assert "layer.trainable_variables" in failure.code


def test_state_is_put_back() -> None:
    """The moving statistics of a layer are after the hunt what they were before."""
    layer = keras.layers.BatchNormalization()
    before = [0.0, 1.0]
    with pytest.raises(NonFiniteAssertion):
        assert_finite(
            Training(layer), domains.any_float((4, 1), low=-1, high=1, nan=True), modes=["eager"], dtypes=["float32"]
        )
    assert [float(each.numpy()[0]) for each in layer.non_trainable_variables] == before


class Training(keras.layers.Layer):
    """A layer that always trains its inner one."""

    def __init__(self, inner: keras.layers.Layer) -> None:
        super().__init__()
        self.inner = inner

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(x, training=True)


@pytest.mark.parametrize(
    "loss", [keras.losses.CategoricalCrossentropy(from_logits=True), keras.losses.MeanSquaredError(dtype="float16")]
)
def test_keras_losses(loss: keras.losses.Loss) -> None:
    """Keras's losses that are finite are not accused, and each is tested in its own dtype."""
    assert_finite(loss, y_true=domains.one_hot(4, batch=3), y_pred=domains.logits((3, 4), limit=100.0))


def test_model() -> None:
    """A model is tested whole."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    assert_finite(model, domains.any_float((2, 3), low=-5, high=5), seconds=5)


def test_traced_function() -> None:
    """A function that is decorated already is looked into all the same."""
    failure = failure_of(tf.function(pole), domains.any_float((4,), low=0.5, high=1.0), dtypes=["float32"])
    np.testing.assert_array_equal(failure.operands["x"], np.array([0.73], np.float32))


def scaled(x: Any) -> Any:
    """Columns scaled by NumPy."""
    x = x.numpy()
    with np.errstate(invalid="ignore"):
        y = (x - x.mean(axis=0)) / x.std(axis=0)
    return y * 1.0


def test_function_of_numpy() -> None:
    """A function that no graph can hold is tried eagerly, and the line is told of whose code no op can be seen."""
    with np.errstate(divide="ignore"):
        failure = failure_of(lambda x: np.log(np.abs(x.numpy())), domains.any_float((3,), low=-1, high=1))
    assert (failure.mode, failure.hazard) == ("eager", "NG101")
    failure = failure_of(scaled, domains.any_float((3, 2), low=-1, high=1))
    assert failure.hazard == "NG702"
    assert "y = (x - x.mean(axis=0)) / x.std(axis=0)" in str(failure)


def test_value_that_went_through_numpy() -> None:
    """The op is told although its number came back as a plain one."""
    failure = failure_of(lambda x: float(tf.reduce_sum(tf.math.log(x))), domains.probabilities((3, 1)))
    assert failure.hazard == "NG101"


def test_operand_with_infinities() -> None:
    """Infinities that a domain holds are not to blame for what the function makes of them."""
    domain = domains.any_float((2,), low=0.0, high=0.0, infinities=True)
    failure = failure_of(lambda mask, x: mask * x, domains.fixed([0.0, 0.0]), domain, dtypes=["float32"])
    assert failure.hazard == "NG204"


def test_all_axes_of_rows_are_cut() -> None:
    """Of an image of one-hot labels one pixel is left."""

    def rare(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_sum(y_true * y_pred) / tf.reduce_sum(y_true[..., 0])

    failure = failure_of(
        rare,
        y_true=domains.one_hot(2, batch=(2, 4, 4)),
        y_pred=domains.probabilities((2, 4, 4, 2)),
        dtypes=["float32"],
    )
    assert failure.operands["y_true"].tolist() == [[[[0, 1]]]]


def test_function_without_operands() -> None:
    """A function of nothing is just called."""
    assert failure_of(lambda: tf.math.log([0.2, 0.0])).hazard == "NG101"
    assert_finite(lambda: tf.math.log([0.2, 0.1]))


def test_errors_of_the_function() -> None:
    """A call that raises is no counterexample; if every call does, its error comes out."""

    def picky(x: Any) -> Any:
        tf.debugging.assert_positive(x)
        return tf.math.log(x)

    assert_finite(picky, domains.any_float((2,), low=-1, high=1), dtypes=["float32"], gradients=False, modes=["eager"])
    with pytest.raises(RuntimeError, match="always"):
        assert_finite(always_raises, domains.any_float((2,)))


def always_raises(x: Any) -> Any:
    """Refuses all."""
    raise RuntimeError("always")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"dtypes": ["int32"]}, "`dtypes` must be some of"),
        ({"modes": ["jit"]}, "`modes` must be some of"),
        ({"seconds": 0}, "`seconds` must be positive"),
        ({"gradients": ["z"]}, "`gradients` must name operands"),
    ],
)
def test_bad_arguments(given: dict[str, Any], match: str) -> None:
    """A bad argument is said in one line."""
    with pytest.raises(UsageError, match=match):
        assert_finite(tf.abs, domains.any_float((2,)), **given)


def test_operand_that_is_no_domain() -> None:
    """A number in the place of a domain is told how to be one."""
    with pytest.raises(UsageError, match=r"domains\.fixed"):
        assert_finite(tf.abs, 3.0)  # type: ignore[arg-type]


def test_without_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Hypothesis the error says what to install."""
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install nanguard\[testing\]"):
        assert_finite(tf.abs, domains.any_float((2,)))
