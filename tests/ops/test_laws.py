"""What every elementwise op promises, tried on all kinds of numbers; its record brings an op its tests."""

from __future__ import annotations

import functools
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from numbers_of import (
    DTYPES,
    MODES,
    NO_KERNEL,
    as_numpy,
    both,
    largest_slope,
    operands_for,
    special,
    widened,
    with_gradients,
)

from nanguard import ops
from nanguard.intervals import float_format
from nanguard.ops._operation import OPS, to_float

ELEMENTWISE = [record for record in OPS.values() if record.kind == "elementwise"]
REPLACES_NAN = {"where_finite", "nan_to_num"}

# Where an op asks the plain one for another number than it was given, so that its value may differ.
CLAMPED = {
    "log": lambda limits, x: x < limits.floor,
    "log2": lambda limits, x: x < limits.floor,
    "log10": lambda limits, x: x < limits.floor,
    "xlogy": lambda limits, x, y: y < limits.floor,
    "divide": lambda limits, x, y: np.abs(y) < limits.floor,
    "reciprocal": lambda limits, x: np.abs(x) < limits.floor,
    "pow": lambda limits, x, y: (y < 0) & (np.abs(x) < limits.floor),
    "erfinv": lambda limits, x: np.abs(x) > 1 - limits.eps,
    "ndtri": lambda limits, x: x < limits.eps / 2,
    "atan2": lambda limits, y, x: np.maximum(np.abs(x), np.abs(y)) < 3 * limits.floor,
}
# Their gradients in 16 bits are nearer to the truth than those of the plain op.
WIDER_GRADIENT = {"atan2"}
TWICE = ("log", "log1p", "exp", "expm1", "softplus", "log_sigmoid", "logcosh", "sqrt", "rsqrt", "acos", "asin", "atanh")

every_op = pytest.mark.parametrize("record", ELEMENTWISE, ids=lambda record: record.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_mode = pytest.mark.parametrize("mode", MODES)


@functools.cache
def with_nans(num_operands: int, dtype: str) -> tuple[np.ndarray, ...]:
    """Finite operands, then NaN in each place beside special numbers."""
    finite, numbers = operands_for(num_operands, dtype), special(dtype)
    nans = np.full_like(numbers, np.nan)
    places = [np.concatenate([nans if i == j else numbers for j in range(num_operands)]) for i in range(num_operands)]
    return tuple(np.concatenate(both) for both in zip(finite, places, strict=True))


@functools.cache
def results(name: str, dtype: str, mode: str):
    record = OPS[name]
    operands = with_nans(record.operands, dtype)
    ours, plain = both(record, operands, mode)
    return [widened(operand) for operand in operands], ours, plain


def are_told_from_zero(operands: list[np.ndarray], dtype: str) -> np.ndarray:
    """Whether operands are 0 or large enough not to be read as 0 by some kernels."""
    smallest = 0 if dtype == "float16" else float_format(dtype).smallest_normal
    return ~((np.abs(operands) < smallest) & (np.array(operands) != 0))


def show(is_wrong: np.ndarray, *columns: np.ndarray) -> list[tuple[float, ...]]:
    """The first rows in which something is wrong."""
    return [tuple(float(column[i]) for column in columns) for i in np.flatnonzero(is_wrong)[:8]]


@every_op
@every_dtype
@every_mode
def test_finite(record, dtype, mode):
    """Finite numbers give a finite value and finite gradients, whose squares are finite where Adam keeps them."""
    operands, (value, gradients), _ = results(record.name, dtype, mode)
    is_finite_input = np.all(np.isfinite(operands), axis=0)
    assert not show(is_finite_input & ~np.isfinite(value), *operands, value)
    limit = np.inf if dtype == "float16" else np.sqrt(float_format(dtype).max)
    for gradient in gradients:
        assert not show(is_finite_input & ~(np.abs(gradient) < limit), *operands, gradient)


@every_op
@every_dtype
@every_mode
def test_nan(record, dtype, mode):
    """A NaN comes out as NaN, in the gradient too, wherever it does of the plain op."""
    operands, (value, gradients), plain = results(record.name, dtype, mode)
    is_nan_input = np.any(np.isnan(operands), axis=0) & np.all(are_told_from_zero(operands, dtype), axis=0)
    if record.name in REPLACES_NAN:
        assert np.isfinite(value[is_nan_input]).all()
        assert all((gradient[is_nan_input] == 0).all() for gradient in gradients)
        return
    plain_value, plain_gradients = plain or (operands[0], operands)
    is_ordinary = np.all([np.isnan(x) | ((x > 0.1) & (x < 20)) for x in operands], axis=0)
    assert not show(is_nan_input & (np.isnan(value) != np.isnan(plain_value)), *operands, value, plain_value)
    for gradient, expected in zip(gradients, plain_gradients, strict=True):
        # Beside a number at which the plain gradient is NaN anyway, ours may be finite.
        is_nan = is_nan_input & is_ordinary & np.isnan(expected)
        assert not show(is_nan & ~np.isnan(gradient), *operands, gradient, expected)
        assert not show(is_nan_input & ~np.isfinite(gradient) & np.isfinite(expected), *operands, gradient, expected)


@pytest.mark.parametrize("record", [op for op in ELEMENTWISE if op.replaces], ids=lambda record: record.name)
@every_dtype
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_plain(record, dtype, mode):
    """Where the plain op is safe, value and gradients are its own, bit for bit."""
    if (record.name, dtype) in NO_KERNEL:
        return
    operands, (value, gradients), (plain_value, plain_gradients) = results(record.name, dtype, mode)
    limits = float_format(dtype)
    is_safe = np.all(np.isfinite(operands) & are_told_from_zero(operands, dtype), axis=0) & np.isfinite(plain_value)
    if record.name in CLAMPED:
        is_safe &= ~CLAMPED[record.name](limits, *operands)

    assert not show(is_safe & (value != plain_value), *operands, value, plain_value)
    if record.name in WIDER_GRADIENT and dtype in ("float16", "bfloat16"):
        return
    for gradient, expected in zip(gradients, plain_gradients, strict=True):
        is_moderate = np.abs(expected) <= largest_slope(dtype)
        assert not show(is_safe & is_moderate & (gradient != expected), *operands, gradient, expected)


@every_op
@every_dtype
@np.errstate(all="ignore")
def test_compiled(record, dtype):
    """XLA, which compiles each formula in its own way, gives what eager mode or the plain op under XLA gives."""
    if (record.name, dtype) in NO_KERNEL:
        return
    operands, (value, gradients), _ = results(record.name, dtype, "eager")
    _, (compiled_value, compiled_gradients), compiled_plain = results(record.name, dtype, "xla")
    limits = float_format(dtype)
    smallest = limits.smallest_normal * (8 * limits.eps if dtype == "float16" else 2)
    is_number = np.all(np.isfinite(operands) & are_told_from_zero(operands, dtype), axis=0)
    plain_value, plain_gradients = compiled_plain or (value, gradients)
    triples = zip(
        (compiled_value, *compiled_gradients), (value, *gradients), (plain_value, *plain_gradients), strict=True
    )
    for found, *expected in triples:
        is_far = np.all([~(np.abs(found - x) <= 32 * limits.eps * np.abs(x) + smallest) for x in expected], axis=0)
        assert not show(is_number & is_far, *operands, found, *expected)


@every_op
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float16"])
def test_adam(record, dtype):
    """One step of Adam with the gradients, and a second one with clean ones, leave the weights finite."""
    operands, (_, gradients), _ = results(record.name, dtype, "graph")
    is_finite = np.all(np.isfinite(operands), axis=0)
    for operand, gradient in zip(operands, gradients, strict=True):
        weight = keras.Variable(operand[is_finite].astype(as_numpy(dtype)), dtype=dtype)
        optimizer = keras.optimizers.Adam()
        optimizer.build([weight])
        for step in (gradient[is_finite], np.ones(is_finite.sum()), np.zeros(is_finite.sum())):
            optimizer.apply([tf.constant(step, dtype)])
        found = weight.value.numpy().astype("float64")
        assert not show(~np.isfinite(found), operand[is_finite], gradient[is_finite], found)


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_second_derivative(name, dtype, mode):
    """A gradient of the gradient, as a gradient penalty takes it, is finite."""
    x = tf.constant(operands_for(1, dtype)[0])
    first = lambda x: with_gradients(OPS[name].function)(x)[1][0]  # noqa: E731
    run = with_gradients(first)
    _, (second,) = (tf.function(run, jit_compile=True, autograph=False) if mode == "xla" else run)(x)
    assert not show(~np.isfinite(second.numpy()), x.numpy(), second.numpy())


@every_op
def test_shapes_and_kinds(record):
    """Scalars, lists, whole numbers, arrays, empty tensors and unknown shapes are taken."""
    function = record.function
    repeated = lambda x: (x,) * record.operands  # noqa: E731
    assert function(*repeated(0.5)).shape == ()
    assert function(*repeated([0.25, 0.5])).dtype == tf.float32
    assert function(*repeated([1, 0])).dtype == tf.float32
    assert function(*repeated(np.array([[0.5]]))).dtype == tf.float64
    assert function(*repeated(tf.zeros([0, 3]))).shape == (0, 3)
    traced = tf.function(with_gradients(function), autograph=False)
    signature = repeated(tf.TensorSpec(None, tf.float32))
    value, gradients = traced.get_concrete_function(*signature)(*repeated(tf.constant([[0.5, 0.25]])))
    assert value.shape == gradients[0].shape == (1, 2)
    with pytest.raises(ValueError, match="real numbers"):
        function(*repeated(tf.constant([1j])))


@pytest.mark.parametrize("record", [op for op in ELEMENTWISE if op.operands == 2], ids=lambda record: record.name)
@pytest.mark.parametrize("shapes", [((3, 1), (2,)), ((), (2, 3)), ((2, 3), (3,))], ids=str)
def test_broadcast(record, shapes):
    """Operands are broadcast, and each gradient has the shape of its operand."""
    random = np.random.default_rng(0)
    operands = [tf.constant(random.uniform(0.5, 2.0, shape), tf.float32) for shape in shapes]
    value, gradients = with_gradients(record.function)(*operands)
    wide = [np.broadcast_to(operand, value.shape) for operand in operands]
    wide_value, wide_gradients = with_gradients(record.function)(*map(tf.constant, wide))
    np.testing.assert_allclose(value, wide_value, rtol=1e-6)
    for operand, gradient, wide_gradient in zip(operands, gradients, wide_gradients, strict=True):
        axes = tuple(range(value.shape.rank - operand.shape.rank))
        summed = wide_gradient.numpy().sum(axes)
        axes = tuple(i for i, size in enumerate(operand.shape) if size != summed.shape[i])
        np.testing.assert_allclose(gradient, summed.sum(axes, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("record", OPS.values(), ids=lambda record: record.name)
def test_every_op_has_its_laws(record):
    """An op is elementwise, and held to the laws of this file, or has tests of its own."""
    if record.kind != "elementwise":
        own = [
            path.read_text() for path in pathlib.Path(__file__).parent.glob("test_*.py") if path.name != "test_laws.py"
        ]
        assert any(re.search(rf"\b{record.name}\b", text) for text in own), record.name


@pytest.mark.parametrize("record", OPS.values(), ids=lambda record: record.name)
def test_record(record):
    """An op is public under its name, says what it cures, and replaces what exists."""
    assert getattr(ops, record.name) is record.function
    codes = set(re.findall(r"\bNG\d{3}\b", record.function.__doc__.partition("Cures:")[2]))
    assert codes == {hazard.code for hazard in record.cures}
    for name in record.replaces:
        root, *path = name.split(".")
        assert callable(functools.reduce(getattr, path, {"tf": tf, "keras": keras}[root]))


def test_to_float_takes_no_complex_numbers():
    """A complex operand is refused in one line."""
    with pytest.raises(ValueError, match="real numbers"):
        to_float(1j)
