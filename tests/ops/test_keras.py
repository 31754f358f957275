"""Every op as a node of a Keras functional model, which saves, loads and is exported with it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import ops
from nanguard.ops._operation import OPS

# Ops of other shapes than a vector per sample have their own models in the tests of their rooms.
RECORDS = [
    record
    for record in OPS.values()
    if record.kind == "elementwise" or record.name in ("softmax", "log_softmax", "logsumexp")
]
BATCH = np.array([[0.0, 0.5, -1.0, 1.0], [2.0, 1e-30, -0.5, 3e38]], "float32")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """One model of all of them, since each session of saving takes a while."""
    x = keras.Input((4,))
    outputs = {}
    for record in RECORDS:
        kwargs = {"axis": -1} if record.kind == "reduction" else {}
        outputs[record.name] = record.function(*(x,) * record.operands, **kwargs)
    outputs["floor"] = ops.log(x, floor=1e-3, gradient="straight_through", name="floored")
    outputs["number"] = ops.pow(x, 0.5)
    outputs["mask"] = ops.softmax(x, mask=keras.ops.greater(x, 0.0))
    return keras.Model(x, outputs)


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_symbolic_is_as_eager(model):
    """A model gives what the op gives, finite for what the others take to NaN."""
    found = model(BATCH)
    for record in RECORDS:
        kwargs = {"axis": -1} if record.kind == "reduction" else {}
        expected = record.function(*(tf.constant(BATCH),) * record.operands, **kwargs)
        np.testing.assert_array_equal(found[record.name], expected, err_msg=record.name)
        assert np.isfinite(expected).all(), record.name


def test_shapes_are_known(model):
    """Keras knows the shape and dtype of each result before it has seen a batch."""
    for name, tensor in model.output.items():
        assert tensor.shape == ((None,) if name == "logsumexp" else (None, 4)), name
        assert tensor.dtype == "float32"


def test_name_is_kept(model):
    """`name=` names the node."""
    assert "floored" in [layer.name for layer in model.operations]


def test_saves_and_loads(model, tmp_path):
    """A `.keras` file holds the ops by name, with their arguments, and needs no custom objects."""
    model.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras")(BATCH), model(BATCH))


def test_config_round_trip(model):
    """A model can be made anew from its config, and cloned."""
    assert_same(keras.Model.from_config(model.get_config())(BATCH), model(BATCH))
    assert_same(keras.models.clone_model(model)(BATCH), model(BATCH))


def test_saved_model(model, tmp_path):
    """An exported SavedModel runs without nanguard's Python code, on a batch of any size."""
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved").serve
    for batch in (BATCH, BATCH[:1], BATCH[[0, 1, 0]]):
        for name, value in served(batch).items():
            np.testing.assert_allclose(value, model(batch)[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """Under mixed precision a layer's activations of 16 bits are taken, and a step of training is finite."""
    x = keras.Input((4,))
    hidden = keras.layers.Dense(4, dtype=policy, kernel_initializer="zeros")(x)
    y = sum(op(hidden) for op in (ops.log, ops.sqrt, ops.rsqrt, ops.exp, ops.reciprocal, ops.acos))
    assert hidden.dtype == y.dtype == policy.removeprefix("mixed_")
    model = keras.Model(x, keras.layers.Dense(1, dtype="float32")(ops.softmax(y)))
    model.compile("adam", "mse")
    model.train_on_batch(np.ones((8, 4), "float32"), np.ones((8, 1), "float32"))
    model.train_on_batch(np.ones((8, 4), "float32"), np.ones((8, 1), "float32"))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
