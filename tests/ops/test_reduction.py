"""Means, variances and running products, where nothing is left, nothing varies or a sum overflows."""

from __future__ import annotations

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from numbers_of import DTYPES, MODES, in_mode, widened, with_gradients
from vectors import assert_adam_survives, assert_finite, vectors

from nanguard import ops
from nanguard.intervals import float_format

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_mode = pytest.mark.parametrize("mode", MODES)

REDUCTIONS = {
    "mean": lambda x: ops.mean(x, -1),
    "variance": lambda x: ops.variance(x, -1),
    "std": lambda x: ops.std(x, -1),
    "variance_ddof": lambda x: ops.variance(x, -1, ddof=1),
    "std_masked": lambda x: ops.std(x, -1, mask=[True, False, True, True]),
    "mean_masked": lambda x: ops.mean(x, -1, mask=[True, False, True, True]),
    "cumprod": lambda x: ops.cumprod(x, -1),
    "cumprod_back": lambda x: ops.cumprod(x, -1, exclusive=True, reverse=True),
}
PLAIN = {
    "mean": (ops.mean, tf.reduce_mean),
    "variance": (ops.variance, tf.math.reduce_variance),
    "std": (ops.std, tf.math.reduce_std),
}

every_reduction = pytest.mark.parametrize("name", REDUCTIONS)
every_plain = pytest.mark.parametrize("name", PLAIN)


@pytest.mark.one_in(2)
@every_reduction
@every_dtype
@every_mode
def test_finite(name, dtype, mode):
    """Finite numbers give finite results and slopes whose squares are finite."""
    share = 8 if name.startswith("cumprod") else 1
    assert_finite(REDUCTIONS[name], dtype, mode, vectors(dtype), share=share)


@every_dtype
@every_mode
def test_weighted_mean_is_finite(dtype, mode):
    """A weighted mean of any numbers with any weights is finite, and both learn within bounds."""
    x = vectors(dtype)
    weights = np.random.default_rng(0).permutation(x)
    assert_finite(lambda x, w: ops.mean(x, -1, weights=w), dtype, mode, x, weights)


@every_reduction
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam(name, dtype):
    """An Adam step with the gradient leaves finite weights, and so does the next."""
    assert_adam_survives(REDUCTIONS[name], vectors(dtype))


@every_plain
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 2), [-1]])
def test_value_is_the_plain_one(name, dtype, axis):
    """Values are those of the plain op, bit for bit, and gradients but for the last rounding."""
    x = tf.constant(np.random.default_rng(1).normal(3, 2, (7, 40, 5)), dtype)
    ours, plain = (with_gradients(functools.partial(op, axis=axis))(x) for op in PLAIN[name])
    assert np.array_equal(ours[0], plain[0])
    scale = np.abs(plain[1][0]).max()
    assert np.abs(ours[1][0] - plain[1][0]).max() <= 4 * float_format(dtype).eps * scale


@every_plain
def test_value_is_the_plain_one_wherever_that_is_finite(name):
    """On rows of all kinds, finite plain values are kept; only a deviation that vanishes is found instead of 0."""
    x = tf.constant(vectors("float32"))
    ours, plain = (op(x, axis=-1).numpy() for op in PLAIN[name])
    is_kept = np.isfinite(plain) if name != "std" else np.isfinite(plain) & (plain > 1e-15)
    assert np.array_equal(ours[is_kept], plain[is_kept])


@every_reduction
@every_dtype
def test_nan_stays(name, dtype):
    """A NaN that counts makes the result NaN, and only the row that it is in."""
    result = widened(REDUCTIONS[name](tf.constant([[1, 2, 3, np.nan], [1, 2, 3, 4]], dtype)).numpy())
    assert np.isnan(result[0]).any()
    assert np.isfinite(result[1]).all()


@every_dtype
@every_mode
def test_masked_entries_do_not_matter(dtype, mode):
    """What a mask leaves out may be NaN or infinite: neither value nor gradient differs from leaving it out."""
    x = tf.constant([[1.0, np.nan, 3.0], [np.inf, 2.0, 8.0]], dtype)
    mask = [[True, False, True], [False, True, True]]
    left = tf.constant([[1.0, 3.0], [2.0, 8.0]], dtype)
    for op in (ops.mean, ops.variance, ops.std):
        value, (gradient,) = in_mode(with_gradients(lambda x, op=op: op(x, 1, mask=mask)), mode)(x)
        plain, (kept,) = in_mode(with_gradients(lambda x, op=op: op(x, 1)), mode)(left)
        assert np.array_equal(value, plain)
        gradient, kept = widened(gradient.numpy()), widened(kept.numpy())
        assert gradient.tolist() == [[kept[0, 0], 0, kept[0, 1]], [0, *kept[1]]]


@every_dtype
@every_mode
def test_nothing_left(dtype, mode):
    """The mean of nothing is the number that is asked for, with gradient 0; nothing does not vary."""
    x = tf.constant([[1.0, np.nan], [3.0, 4.0]], dtype)
    mask = [[False, False], [True, True]]
    value, (gradient,) = in_mode(with_gradients(lambda x: ops.mean(x, 1, mask=mask, empty=-1.0)), mode)(x)
    assert value.numpy().tolist() == [-1, 3.5]
    assert gradient.numpy().tolist() == [[0, 0], [0.5, 0.5]]
    for op in (ops.variance, ops.std):
        value, (gradient,) = in_mode(with_gradients(lambda x, op=op: op(x, 1, mask=mask)), mode)(x)
        assert value.numpy().tolist() == [0, op([3.0, 4.0]).numpy()]
        assert gradient.numpy()[0].tolist() == [0, 0]


@pytest.mark.parametrize("op", [ops.mean, ops.variance, ops.std])
@every_mode
def test_empty_tensors(op, mode):
    """Empty tensors reduce to 0 along an empty axis, and to nothing along another."""
    for shape, axis in itertools.product([(0,), (0, 3), (3, 0)], [None, 0, -1]):
        value, (gradient,) = in_mode(with_gradients(functools.partial(op, axis=axis)), mode)(tf.zeros(shape))
        assert value.numpy().tolist() == np.zeros(np.zeros(shape).sum(axis).shape).tolist()
        assert gradient.shape == shape


@pytest.mark.parametrize("op", [ops.variance, ops.std])
@every_mode
def test_one_sample(op, mode):
    """One sample has no spread, also in the unbiased estimate."""
    value, (gradient,) = in_mode(with_gradients(lambda x: op(x, 1, ddof=1)), mode)(tf.constant([[7.0], [-1e30]]))
    assert value.numpy().tolist() == [0, 0]
    assert gradient.numpy().tolist() == [[0], [0]]


def test_unbiased_estimate():
    """With ddof the sum of squares is divided by that many fewer."""
    x = np.random.default_rng(2).normal(size=50)
    assert np.isclose(ops.variance(x, ddof=1), x.var(ddof=1), rtol=1e-14)
    assert np.isclose(ops.std(x, ddof=1), x.std(ddof=1), rtol=1e-14)


def test_weights_of_zero_hide_what_is_not_finite():
    """A weight of 0 hides a NaN from the value and from all gradients."""
    value, (x_gradient, w_gradient) = with_gradients(lambda x, w: ops.mean(x, weights=w))(
        tf.constant([1.0, np.nan, 3.0]), tf.constant([1.0, 0.0, 3.0])
    )
    assert value == 2.5
    assert x_gradient.numpy().tolist() == [0.25, 0, 0.75]
    assert w_gradient.numpy().tolist() == [-0.375, 0, 0.125]


@every_mode
def test_unknown_shapes(mode):
    """Ranks and lengths that are known only at run time change nothing."""
    if mode == "xla":
        pytest.skip("XLA knows all shapes")
    x = np.array([[1.0, 2.0, 4.0], [5.0, 5.0, 5.0]], "float32")
    for op in (ops.mean, ops.variance, ops.std, ops.cumprod):
        for spec in (tf.TensorSpec([None, None]), tf.TensorSpec([None, 3])):
            for axis in (0, 1):
                unknown = tf.function(lambda x, op=op, axis=axis: op(x, axis), input_signature=[spec], autograph=False)
                assert np.array_equal(unknown(x), op(x, axis))
    zeros = tf.function(with_gradients(ops.cumprod), input_signature=[tf.TensorSpec([None])], autograph=False)
    assert zeros(tf.constant([2.0, 0.0, 3.0]))[1][0].numpy().tolist() == [1, 8, 0]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@every_mode
def test_cumprod_gradient(exclusive, reverse, mode):
    """The gradient of a running product is right at zeros and where a product vanishes on the way."""
    for x in ([2.0, 3.0, 4.0, 5.0], [2.0, 0.0, 3.0, 5.0], [0.0, 0.0, 1.0, 2.0], [1e-30, 1e-30, 1e9, 3.0], [4.0]):
        expected = np.zeros(len(x))
        order = range(len(x))[::-1] if reverse else range(len(x))
        for place in range(len(x)):
            seen = list(order)[: place + (not exclusive)]
            for i in seen:
                expected[i] += np.prod([x[j] for j in seen if j != i])

        def running(x):
            return ops.cumprod(x, 0, exclusive, reverse)

        def plain(x):
            return tf.math.cumprod(x, 0, exclusive, reverse)

        value, (gradient,) = in_mode(with_gradients(running), mode)(tf.constant(x))
        rtol = 1e-6 if mode == "xla" else 0
        assert np.allclose(value, in_mode(plain, mode)(tf.constant(x)), rtol=rtol, atol=0)
        assert np.allclose(gradient, expected, rtol=1e-5, atol=1e-37)


@every_mode
def test_cumprod_of_fading_products(mode):
    """Of factors below 1, whose products vanish, the gradient is right but for what vanishes with them."""
    x = np.random.default_rng(6).uniform(0.1, 0.9, 300).astype("float32")
    products = np.cumprod(x.astype("longdouble"))
    expected = np.cumsum(products[::-1])[::-1] / x
    _, (gradient,) = in_mode(with_gradients(ops.cumprod), mode)(tf.constant(x))
    assert np.allclose(gradient, expected.astype("float64"), rtol=1e-4, atol=1e-31)


def test_second_derivatives():
    """Second derivatives are those of the plain ops, and finite where nothing varies."""

    def second(op, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            gradient = with_gradients(lambda x: op(x, axis=-1))(x)[1][0]
            size = tf.reduce_sum(tf.square(gradient - 1))
        return outer.gradient(size, x)

    x = tf.constant(np.random.default_rng(4).normal(size=(5, 9)))
    for ours, plain in (PLAIN["variance"], PLAIN["std"]):
        # The plain one differentiates through the mean as well, which adds rounding only.
        assert np.allclose(second(ours, x), second(plain, x), rtol=1e-9, atol=1e-13)
        assert np.isfinite(second(ours, tf.zeros([2, 3]))).all()


def test_names_of_what_they_replace():
    """The arguments go by the names that TensorFlow and NumPy have for them."""
    assert ops.reduce_mean(input_tensor=[1.0, 3.0]) == 2
    assert ops.reduce_std(input_tensor=[1.0, 3.0], axis=0, keepdims=True).numpy().tolist() == [1]
    assert ops.var([1.0, 3.0], axis=0) == ops.reduce_variance([1.0, 3.0], 0, name="spread")
    assert ops.mean([1, 2]).dtype == "float32"


def test_functional_model(tmp_path):
    """Ops over axes are nodes of a functional model, which saves and loads."""
    x = keras.Input((6, 4))
    outputs = [
        ops.mean(x, axis=-1, mask=[True, False, True, True]),
        ops.std(x, axis=(1, 2), keepdims=True, ddof=1),
        ops.cumprod(x, 1, reverse=True),
        ops.norm(x, ord=3, axis=-1),
        ops.l2_normalize(x, axis=-1),
        ops.cosine_similarity(x, x + 1),
        ops.pairwise_distances(x, metric="manhattan"),
        ops.entropy(x, from_logits=True),
        ops.kl_normal(x, log_variance=x),
        ops.kl_dirichlet(x),
        ops.stft_magnitude(x, frame_length=4, frame_step=2),
        ops.cholesky(ops.pairwise_distances(x)),
        *ops.eigh(ops.pairwise_distances(x)),
    ]
    model = keras.Model(x, outputs)
    batch = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for before, after in zip(model(batch), loaded(batch), strict=True):
        assert np.array_equal(before, after)
    assert np.allclose(loaded.predict(batch, verbose=0)[3], ops.norm(batch, 3, -1), rtol=1e-6)
