"""The regions of the catalogue beside what TensorFlow's kernels do, in four dtypes, value and gradient."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

import nanguard
from nanguard import hazards
from nanguard.intervals import FLOAT_FORMATS, exactly, float_format


def _num_operands(op: str) -> int:
    """How many operands an elementwise op has; 0 for an op that is not elementwise."""
    names = [name for name in inspect.signature(getattr(tf.raw_ops, op)).parameters if name != "name"]
    return {("x",): 1, ("x", "y"): 2, ("y", "x"): 2}.get(tuple(names), 0)


def _elementwise_ops(phase) -> list[str]:
    ops = {op for hazard in hazards.ALL if phase in hazard.phases and hazard.strikes for op in hazard.ops}
    return sorted(op for op in ops if _num_operands(op) and _regions(op, phase))


def _regions(op: str, phase) -> list[hazards.Region]:
    return [region for hazard in hazards.for_op(op, phase) if hazard.strikes for region in hazard.regions(op)]


def _points(op: str, dtype: str) -> list[np.ndarray]:
    """All combinations of ordinary numbers with the ends of the op's regions and the numbers next to them."""
    scalar = tf.as_dtype(dtype).as_numpy_dtype
    columns = []
    for operand in range(_num_operands(op)):
        points = {-1.0, -0.5, 0.0, 0.5, 1.0}
        for region in _regions(op, "forward") + _regions(op, "backward"):
            for part in region.parts:
                if part.operand == operand:
                    interval = part.interval(dtype)
                    points |= {interval.low, interval.high}
        ends = np.array(sorted(points)).astype(scalar)
        finite = ends[np.isfinite(ends)]
        beside = [np.nextafter(finite, scalar(direction)) for direction in (-np.inf, np.inf)]
        columns.append(np.unique(np.concatenate([ends, *beside])))
    grid = list(itertools.product(*columns))
    return [np.array([row[i] for row in grid], dtype=scalar) for i in range(len(columns))]


def _struck(regions, row, dtype) -> bool | None:
    """True where harm is certain, None where it is possible, False where no region is struck."""
    # Where only a subnormal number strikes, a kernel that reads it as 0 does no harm.
    flushed = [0.0 if abs(x) < float_format(dtype).smallest_normal else x for x in row]
    struck, still_struck = (
        [region for region in regions if region.is_struck([exactly(x) for x in numbers], dtype)]
        for numbers in (row, flushed)
    )
    if any(region.is_certain for region in struck) and any(region.is_certain for region in still_struck):
        return True
    return None if struck else False


def _evaluate(op: str, columns, dtype: str, *, is_differentiated: bool = False):
    """The op's values and gradients, or None where TensorFlow has no kernel for the dtype."""
    operands = [tf.constant(column, dtype) for column in columns]
    call = getattr(tf.raw_ops, op)
    try:
        with tf.GradientTape() as tape:
            tape.watch(operands)
            y = call(**dict(zip("xy", operands, strict=False)))
        gradients = _gradients(tape, y, operands) if is_differentiated else []
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        assert dtype in ("float16", "bfloat16"), f"{op} has no kernel for {dtype}"
        return None
    return y, gradients


def _gradients(tape, y, operands):
    try:
        gradients = tape.gradient(y, operands)
    except LookupError:  # The op has no gradient, as TruncateMod.
        return []
    return [gradient for gradient in gradients if gradient is not None]


def _is_finite(tensor) -> np.ndarray:
    return np.isfinite(tensor.numpy().astype("float64"))


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
@pytest.mark.parametrize("op", _elementwise_ops("forward"))
def test_forward_regions(op, dtype):
    """In a region the op's value is not finite, and just outside of all regions it is."""
    columns = _points(op, dtype)
    evaluated = _evaluate(op, columns, dtype)
    if evaluated is None:
        pytest.skip("no such kernel")
    finite = _is_finite(evaluated[0])
    regions = _regions(op, "forward")
    num_checked = 0
    for i, row in enumerate(zip(*(column.astype("float64") for column in columns), strict=True)):
        struck = _struck(regions, row, dtype)
        if struck is True or (struck is False and all(map(math.isfinite, row))):
            assert finite[i] == (not struck), f"{op}{row} in {dtype}"
            num_checked += 1
    assert num_checked >= 5


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
@pytest.mark.parametrize("op", _elementwise_ops("backward"))
def test_backward_regions(op, dtype):
    """In a region the op's gradient is not finite; where no region, forward or backward, is struck it is."""
    columns = _points(op, dtype)
    evaluated = _evaluate(op, columns, dtype, is_differentiated=True)
    if evaluated is None:
        pytest.skip("no such kernel")
    finite = np.logical_and.reduce([_is_finite(gradient) for gradient in evaluated[1]])
    num_checked = 0
    for i, row in enumerate(zip(*(column.astype("float64") for column in columns), strict=True)):
        backward, forward = (_struck(_regions(op, phase), row, dtype) for phase in ("backward", "forward"))
        if backward is True or (backward is False and forward is False and all(map(math.isfinite, row))):
            assert finite[i] == (not backward), f"{op}{row} in {dtype}"
            num_checked += 1
    assert num_checked >= 2


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
@pytest.mark.parametrize(
    ("hazard", "op"),
    [(hazard, op) for hazard in hazards.ALL for op in hazard.replacements if _num_operands(op)],
    ids=lambda value: value if isinstance(value, str) else value.code,
)
def test_replacement_cures(hazard, op, dtype):
    """Where the hazard is struck by finite operands, the rewritten call has a finite value and gradient."""
    # In half precision a number that is merely near 0 overflows for want of range: another hazard, with another cure.
    harmful = (True,) if dtype in ("float16", "bfloat16") else (True, None)
    columns = _points(op, dtype)
    regions = hazard.regions(op)
    rows = [
        i
        for i, row in enumerate(zip(*(column.astype("float64") for column in columns), strict=True))
        if _struck(regions, row, dtype) in harmful and all(map(math.isfinite, row))
    ]
    if _evaluate(op, columns, dtype, is_differentiated=True) is None:
        pytest.skip("no such kernel")
    if not rows and harmful == (True,):
        pytest.skip("no operand strikes it for certain")
    assert rows
    operands = [tf.constant(column[rows], dtype) for column in columns]
    code = hazard.rewrite(op, ["a", "b"][: len(operands)], dtype)
    with tf.GradientTape() as tape:
        tape.watch(operands)
        y = eval(code, {"tf": tf, "ng": nanguard, "a": operands[0], "b": operands[-1]})
    for finite in map(_is_finite, (y, *_gradients(tape, y, operands))):
        assert finite.all(), list(np.array(columns).T[rows][~finite])


INF = math.inf


@pytest.mark.parametrize("dtype", FLOAT_FORMATS)
@pytest.mark.parametrize(
    ("hazard", "op", "operand"),
    [
        (hazards.ALL_MASKED_SOFTMAX, "Softmax", [[0.0, 1.0], [-INF, -INF]]),
        (hazards.ALL_MASKED_SOFTMAX, "LogSoftmax", [[0.0, 1.0], [-INF, -INF]]),
        (hazards.DEGENERATE_MATRIX, "Cholesky", [[1.0, 1.0], [1.0, 1.0]]),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "code", ""),
)
def test_replacement_of_an_op_on_rows_cures(hazard, op, operand, dtype):
    """On rows or a matrix that strike the hazard, the rewritten call has a finite value and gradient."""
    a = tf.constant(operand, dtype)
    with tf.GradientTape() as tape:
        tape.watch(a)
        y = eval(hazard.rewrite(op, ["a"], dtype), {"ng": nanguard, "a": a})
    for finite in map(_is_finite, (y, *_gradients(tape, y, [a]))):
        assert finite.all()


def test_every_replacement_is_tried():
    """The two tests above try all rewritings that the catalogue has."""
    on_rows = {"Softmax", "LogSoftmax", "Cholesky"}
    assert all(_num_operands(op) or op in on_rows for hazard in hazards.ALL for op in hazard.replacements)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("MatMul", {"a": [[0.0, 1.0]], "b": [[INF], [1.0]]}),
        ("BatchMatMulV2", {"x": [[[-INF, 1.0]]], "y": [[[0.0], [1.0]]]}),
        ("Sum", {"input": [INF, -INF], "axis": 0}),
        ("Mean", {"input": [1.0, INF, -INF], "axis": 0}),
        ("Cumsum", {"x": [INF, -INF], "axis": 0}),
        ("AddN", {"inputs": [[INF], [-INF]]}),
        ("BiasAdd", {"value": [[INF]], "bias": [-INF]}),
        ("Softmax", {"logits": [[0.0, INF]]}),
        ("LogSoftmax", {"logits": [[0.0, INF]]}),
        ("SoftmaxCrossEntropyWithLogits", {"features": [[0.0, INF]], "labels": [[1.0, 0.0]]}),
        ("SparseSoftmaxCrossEntropyWithLogits", {"features": [[0.0, INF]], "labels": [0]}),
    ],
)
def test_regions_of_ops_over_axes(op, arguments):
    """Ops that are not elementwise are struck where their infinities meet, and give NaN there."""
    values = list(arguments.values())
    operands = values[0] if op == "AddN" else [value for name, value in arguments.items() if name != "axis"]
    hulls = []
    for operand in operands:
        numbers = np.array(operand).ravel().tolist()
        hull = exactly(numbers[0])
        for number in numbers[1:]:
            hull = hull.hull(exactly(number))
        hulls.append(hull)
    struck = [hazard.code for hazard in hazards.for_op(op, "forward") if hazard.struck_by(hulls, "float32", op)]
    assert set(struck) & {"NG203", "NG204"}
    result = getattr(tf.raw_ops, op)(**arguments)
    first = tf.nest.flatten(result)[0]
    assert np.isnan(first.numpy()).any()
