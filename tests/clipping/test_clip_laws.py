"""What holds for every kind of clipping: in eager mode, in graphs and under XLA, in four dtypes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from kinds import GRADIENT_KINDS, KINDS, MODES, SHAPES, gradients, runner, weights

DTYPES = ["float16", "bfloat16", "float32", "float64"]
STATEFUL = ["AutoClip", "ZClip", "AdaGC"]

every_kind = pytest.mark.parametrize("kind", GRADIENT_KINDS)
every_mode = pytest.mark.parametrize("mode", MODES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def tensors(arrays, dtype="float32"):
    return [tf.cast(tf.constant(array), dtype) for array in arrays]


def state_of(clip):
    return [tf.convert_to_tensor(variable).numpy() for variable in clip.variables]


def norm_of(grads):
    """The norm in float64, of numbers of any size."""
    flat = np.concatenate([np.asarray(tf.cast(grad, tf.float64)).ravel() for grad in grads])
    largest = np.abs(flat).max(initial=0) or 1
    return largest * np.linalg.norm(flat / largest)


def warm(step, dtype="float32", num=8):
    """Has the statistics of a clip start: norms from 5 to 6."""
    for grads in list(gradients(num, seed=3)):
        scale = np.random.default_rng(0).uniform(5, 6) / norm_of(grads)
        step(*tensors([grad * scale for grad in grads], dtype))


@pytest.mark.one_in(2)
@every_kind
@every_mode
@every_dtype
def test_a_nan_stays_and_spoils_nothing(kind, mode, dtype):
    """What is not finite stays in its place, all else is clipped and finite, and the statistics do not move."""
    clip = KINDS[kind]()
    step = runner(clip, weights(dtype), mode)
    warm(step, dtype)
    before = state_of(clip)
    for bad in (float("nan"), float("inf"), -float("inf")):
        arrays = [10 * np.ones(shape, "float32") for shape in SHAPES]
        arrays[0][1, 2] = bad
        got = step(*tensors(arrays, dtype))
        numbers = [grad.numpy().astype("float64") for grad in got]
        assert not np.isfinite(numbers[0][1, 2])
        if kind == "ClipByValue":
            np.testing.assert_equal(numbers[0][1, 2], bad)
        numbers[0][1, 2] = 0
        assert all(np.isfinite(number).all() for number in numbers)
        assert 0 < norm_of(numbers) < 80
        assert max(np.abs(number).max() for number in numbers) < 10
    for one, other in zip(before, state_of(clip), strict=True):
        np.testing.assert_array_equal(one, other)


@every_kind
@every_mode
def test_all_nan_is_left_alone(kind, mode):
    """Where no number is finite nothing is clipped, learnt or broken, on the first step too."""
    clip = KINDS[kind]()
    step = runner(clip, weights(), mode)
    before = state_of(clip)
    got = step(*[tf.fill(shape, float("nan")) for shape in SHAPES])
    assert all(np.isnan(grad.numpy()).all() for grad in got)
    for one, other in zip(before, state_of(clip), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", STATEFUL)
@every_mode
def test_a_nan_disarms_nothing(kind, mode):
    """After a NaN, on the first step or later, a training is clipped as it is without that step."""
    runs = []
    for bad_steps in ((), (0, 3, 20)):
        step, clipped = runner(KINDS[kind](), weights(), mode), []
        for number, grads in enumerate(gradients(30)):
            if number in bad_steps:
                step(*tensors([*grads[:2], np.full(SHAPES[2], np.nan, "float32")]))
            clipped.append([grad.numpy() for grad in step(*tensors(grads))])
        runs.append(clipped)
    for one, other in zip(*runs, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@every_kind
@every_mode
@pytest.mark.parametrize("size", [1e30, 2e38])
def test_huge_gradients_are_clipped_right(kind, mode, size):
    """A finite gradient whose square overflows is brought down to a finite norm, in its own direction."""
    clip = KINDS[kind]()
    step = runner(clip, weights(), mode)
    warm(step)
    arrays = [size * np.random.default_rng(5).choice([-1.0, 1.0, 0.5], shape).astype("float32") for shape in SHAPES]
    got = [grad.numpy().astype("float64") for grad in step(*tensors(arrays))]
    assert 0.5 < norm_of(got) < 80
    if kind not in ("ClipByValue", "AGC"):
        for grad, array in zip(got, arrays, strict=True):
            np.testing.assert_allclose(grad / norm_of([grad]), array / norm_of([array]), rtol=1e-5)
    assert all(np.isfinite(state).all() for state in state_of(clip))
    if kind in ("ClipByNorm", "ClipByGlobalNorm"):
        limit = norm_of(got) if kind == "ClipByGlobalNorm" else norm_of(got[:1])
        np.testing.assert_allclose(limit, clip.limit, rtol=1e-6)


@pytest.mark.one_in(3)
@every_kind
@every_mode
@every_dtype
def test_zero_gradients_stay(kind, mode, dtype):
    """Zeros come out as zeros and do not stop the training: what comes after them is not clipped to 0."""
    step = runner(KINDS[kind](), weights(dtype), mode)
    for _ in range(8):
        for grad in step(*[tf.zeros(shape, dtype) for shape in SHAPES]):
            np.testing.assert_array_equal(grad.numpy().astype("float64"), 0)
    for _ in range(8):
        got = step(*[tf.ones(shape, dtype) for shape in SHAPES])
    assert all(norm_of([grad]) > 0.1 for grad in got)


@pytest.mark.one_in(2)
@every_kind
@every_mode
@every_dtype
def test_below_the_limit_no_bit_changes(kind, mode, dtype):
    """Gradients within the limits come out bit for bit, with negative zeros and subnormal numbers."""
    clip = KINDS[kind]()
    step = runner(clip, weights(dtype), mode)
    if clip.variables:
        for _ in range(8):  # Falling norms, so that none is above its limit.
            step(*[tf.ones(shape, dtype) for shape in SHAPES])
        if kind == "AutoClip":
            pytest.skip("it clips to a percentile of norms, this one among them")
    tiny = {"float16": 6e-8, "bfloat16": 1e-39, "float32": 1e-40, "float64": 1e-310}[dtype]
    arrays = [np.random.default_rng(0).uniform(-1e-3, 1e-3, shape) for shape in SHAPES]
    arrays[1][:2] = -0.0, tiny
    arrays = [array.astype(tf.as_dtype(dtype).as_numpy_dtype) for array in arrays]
    grads = [tf.constant(array) for array in arrays]
    assert clip.clip(grads, weights(dtype) if kind == "AGC" else clip_weights(clip, step), halves(grads))[1] == 1
    for one, other in zip(step(*grads), arrays, strict=True):
        assert one.dtype == grads[0].dtype
        assert one.numpy().tobytes() == other.tobytes()


def clip_weights(clip, step):
    """The weights that a clip was built with, if it keeps them."""
    return getattr(clip, "_weights", [None] * len(SHAPES))


def halves(grads):
    return [tf.cast(tf.nn.l2_loss(tf.cast(grad, tf.float32)), tf.float32) for grad in grads]


@every_kind
@every_mode
def test_the_factor_is_the_smallest(kind, mode):
    """The second result of `clip` is 1 if all is as it was, and else what the most clipped number was multiplied by."""
    variables = weights()
    clip = KINDS[kind]()
    clip.build(variables)
    warm(lambda *grads: clip(list(grads), variables))

    def step(*grads):
        return clip.clip(list(grads), variables, halves(grads))

    step = step if MODES[mode] is None else tf.function(step, **MODES[mode])
    for size in (1e-4, 3.0, 1e3, 1e30):
        grads = tensors([size * np.ones(shape) for shape in SHAPES])
        got, factor = step(*grads)
        ratios = [(one.numpy() / other.numpy()).min() for one, other in zip(got, grads, strict=True)]
        assert factor.dtype == tf.float32
        np.testing.assert_allclose(factor.numpy(), min(ratios), rtol=1e-5)


@every_kind
@every_dtype
def test_a_single_scalar_weight(kind, dtype):
    """One weight of no dimension is clipped too."""
    variable = tf.Variable(0.5, dtype=dtype)
    clip = KINDS[kind]()
    for _ in range(6):
        clip([tf.constant(2.0, dtype)], [variable])
    got = clip([tf.constant(1000.0, dtype)], [variable])[0]
    assert got.shape == []
    assert got.dtype == dtype
    assert 0 < float(got) < 1000


@pytest.mark.parametrize("kind", GRADIENT_KINDS)
def test_mixed_dtypes_and_none(kind):
    """Gradients of several dtypes keep theirs, an empty one is no trouble, and None stays None."""
    variables = [tf.Variable(tf.ones([2], dtype)) for dtype in DTYPES] + [
        tf.Variable([1.0]),
        tf.Variable(tf.zeros([0])),
    ]
    grads = [tf.cast([100.0, float("nan")], dtype) for dtype in DTYPES] + [None, tf.zeros([0])]
    clip = KINDS[kind]()
    clip.build(variables)
    got = clip(grads, variables)
    assert got[4] is None
    assert got[5].shape == [0]
    for dtype, grad in zip(DTYPES, got[:4], strict=True):
        assert grad.dtype == dtype
        assert np.isfinite(float(grad[0]))
        assert np.isnan(float(grad[1]))


def test_float64_beyond_float32():
    """A float64 gradient whose norm float32 cannot hold is clipped in float64."""
    for kind in ("ClipByNorm", "ClipByGlobalNorm"):
        got = KINDS[kind]()([tf.constant([3e200, 4e200], tf.float64)])[0].numpy()
        np.testing.assert_allclose(np.linalg.norm(got), {"ClipByNorm": 3, "ClipByGlobalNorm": 5}[kind], rtol=1e-6)
