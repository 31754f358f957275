"""Entropies and divergences, for ordinary parameters and for absurd ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from numbers_of import DTYPES, MODES, in_mode, widened, with_gradients
from scipy import integrate, stats
from vectors import assert_adam_survives, assert_finite, vectors

from nanguard import ops
from nanguard.intervals import float_format

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_mode = pytest.mark.parametrize("mode", MODES)


def kl_normal_of_logs(mean, log_variance, other_mean, other_log_variance):
    return ops.kl_normal(mean, other_mean=other_mean, log_variance=log_variance, other_log_variance=other_log_variance)


# Function and number of operands.
ELEMENTWISE = {
    "bernoulli": (ops.kl_bernoulli, 2),
    "bernoulli_taught": (lambda p, q: ops.kl_bernoulli(p, q, gradient="straight_through"), 2),
    "bernoulli_logits": (lambda p, q: ops.kl_bernoulli(p, q, from_logits=True), 2),
    "normal": (ops.kl_normal, 4),
    "normal_of_logs": (kl_normal_of_logs, 4),
    "laplace": (ops.kl_laplace, 4),
    "exponential": (ops.kl_exponential, 2),
    "poisson": (ops.kl_poisson, 2),
    "gamma": (ops.kl_gamma, 4),
    "beta": (ops.kl_beta, 4),
}
OF_VECTORS = {
    "entropy": (ops.entropy, 1),
    "entropy_logits": (lambda x: ops.entropy(x, from_logits=True), 1),
    "categorical": (ops.kl_categorical, 2),
    "categorical_taught": (lambda p, q: ops.kl_categorical(p, q, gradient="straight_through"), 2),
    "categorical_logits": (lambda p, q: ops.kl_categorical(p, q, from_logits=True), 2),
    "dirichlet": (ops.kl_dirichlet, 2),
}


def parameters(dtype, num):
    """All combinations of numbers around which something happens."""
    limits = float_format(dtype)
    few = [0, 1, 0.5, -1, limits.floor, 1 / limits.floor, limits.max, -limits.max, limits.smallest_normal, 1e-3]
    few += [] if num == 4 else [-0.0, 2, 1 - limits.eps / 2, limits.eps, limits.exp_limit, -limits.exp_limit, 100]
    return np.array(list(itertools.product(few, repeat=num))).T


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ELEMENTWISE)
@every_dtype
@every_mode
def test_elementwise_is_finite(name, dtype, mode):
    """Any finite parameters have a finite divergence that is not negative, and bounded slopes."""
    function, num = ELEMENTWISE[name]
    value, _ = assert_finite(function, dtype, mode, *parameters(dtype, num))
    assert widened(value.numpy()).min() >= 0


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", OF_VECTORS)
@every_dtype
@every_mode
def test_of_vectors_is_finite(name, dtype, mode):
    """Any finite vectors have a finite entropy or divergence, and bounded slopes."""
    function, num = OF_VECTORS[name]
    x = vectors(dtype)
    operands = (x, np.random.default_rng(0).permutation(x))[:num]
    value, _ = assert_finite(function, dtype, mode, *operands)
    if not name.startswith("categorical") or name == "categorical_logits":
        assert widened(value.numpy()).min() >= 0


@pytest.mark.parametrize("name", OF_VECTORS)
def test_adam(name):
    """An Adam step with the gradient leaves finite weights, and so does the next."""
    function, num = OF_VECTORS[name]
    x = vectors("float32")
    others = [tf.constant(x[::-1].copy())] * (num - 1)
    assert_adam_survives(lambda weights: function(weights, *others), x)
    if others:
        assert_adam_survives(lambda weights: function(*others, weights), x)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *OF_VECTORS])
@every_dtype
def test_nan_stays(name, dtype):
    """A NaN in any parameter comes out."""
    function, num = {**ELEMENTWISE, **OF_VECTORS}[name]
    for place in range(num):
        operands = [tf.constant([0.5, 0.5], dtype)] * num
        operands[place] = tf.constant([0.5, np.nan], dtype)
        value, gradients = with_gradients(function)(*operands)
        assert np.isnan(widened(value.numpy())).any()
        assert np.isnan(widened(gradients[place].numpy())).any()


def by_integral(p, q, low, high):
    return integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), low, high, epsabs=1e-12, limit=200)[0]


CONTINUOUS = [
    (ops.kl_normal, (0.3, 0.7, -0.2, 1.4), stats.norm(0.3, 0.7), stats.norm(-0.2, 1.4), (-9, 9)),
    (kl_normal_of_logs, (0.3, -0.7, -0.2, 0.4), stats.norm(0.3, np.exp(-0.35)), stats.norm(-0.2, np.exp(0.2)), (-9, 9)),
    (ops.kl_laplace, (0.3, 0.7, -0.2, 1.4), stats.laplace(0.3, 0.7), stats.laplace(-0.2, 1.4), (-30, 30)),
    (ops.kl_exponential, (0.5, 2.0), stats.expon(scale=2), stats.expon(scale=0.5), (0, 90)),
    (ops.kl_gamma, (2.5, 0.5, 1.5, 2.0), stats.gamma(2.5, scale=2), stats.gamma(1.5, scale=0.5), (0, 120)),
    (ops.kl_beta, (2.5, 3.5, 1.5, 2.0), stats.beta(2.5, 3.5), stats.beta(1.5, 2.0), (0, 1)),
    (
        lambda *p: ops.kl_dirichlet(p[:2], p[2:]),
        (2.5, 3.5, 1.5, 2.0),
        stats.beta(2.5, 3.5),
        stats.beta(1.5, 2.0),
        (0, 1),
    ),
]


@pytest.mark.parametrize(("function", "parameters", "p", "q", "limits"), CONTINUOUS)
def test_continuous(function, parameters, p, q, limits):
    """A divergence is the integral that defines it, and its gradient the one of differences."""
    parameters = [tf.constant(value, tf.float64) for value in parameters]
    value, gradients = with_gradients(function)(*parameters)
    assert np.isclose(value, by_integral(p, q, *limits), rtol=1e-7)
    for place, gradient in enumerate(gradients):
        low, high = (function(*(v + nudge * (i == place) for i, v in enumerate(parameters))) for nudge in (-1e-6, 1e-6))
        assert np.isclose(gradient, (high - low) / 2e-6, rtol=1e-6)


def test_discrete():
    """Divergences of discrete distributions and entropies are the sums that define them."""
    p, q = np.array([0.2, 0.0, 0.8]), np.array([0.5, 0.25, 0.25])
    assert np.isclose(ops.kl_categorical(p, q), stats.entropy(p, q), rtol=1e-14)
    assert np.isclose(ops.entropy(p), stats.entropy(p), rtol=1e-14)
    assert np.isclose(ops.kl_bernoulli(0.2, 0.7), stats.entropy([0.2, 0.8], [0.7, 0.3]), rtol=1e-6)
    count = np.arange(100)
    p, q = stats.poisson(3.5), stats.poisson(2.0)
    expected = np.sum(p.pmf(count) * (p.logpmf(count) - q.logpmf(count)))
    assert np.isclose(ops.kl_poisson(np.float64(3.5), np.float64(2.0)), expected, rtol=1e-12)


@every_mode
def test_from_logits(mode):
    """From logits the results are those of their probabilities, and a saturated mistake is taught in full."""
    a, b = np.array([[0.3, -1.0, 2.0]]), np.array([[1.5, 0.0, -2.0]])
    p, q = tf.nn.softmax(a), tf.nn.softmax(b)
    assert np.allclose(ops.entropy(a, from_logits=True), ops.entropy(p), rtol=1e-14)
    assert np.allclose(ops.kl_categorical(a, b, from_logits=True), ops.kl_categorical(p, q), rtol=1e-13)
    assert np.allclose(ops.kl_bernoulli(a, b, from_logits=True), ops.kl_bernoulli(tf.sigmoid(a), tf.sigmoid(b)))
    wrong = tf.constant([[1000.0, -1000.0]])
    right = tf.constant([[-1000.0, 1000.0]])
    value, (_, gradient) = in_mode(with_gradients(lambda p, q: ops.kl_categorical(p, q, from_logits=True)), mode)(
        right, wrong
    )
    assert value.numpy().tolist() == [2000]
    assert gradient.numpy().tolist() == [[1, -1]]


def test_clamped_parameters_learn():
    """A parameter that is 0, negative or beyond the range has a gradient that leads back."""
    for function in (ops.kl_exponential, ops.kl_poisson, lambda rate, one: ops.kl_gamma(one, rate)):
        _, (gradient, _) = with_gradients(function)(tf.constant([0.0, -3.0, 1e30]), tf.ones(3))
        assert gradient[0] < 0
        assert gradient[1] < 0
        assert gradient[2] > 0
    _, (gradient,) = with_gradients(lambda v: ops.kl_normal(0.0, log_variance=v))(tf.constant([-1000.0, 1000.0]))
    assert gradient[0] < 0 < gradient[1]


def test_gradient_of_an_impossible_class():
    """A probability of 0 learns nothing by default, and with a gradient that goes straight through comes back."""
    p, q = tf.constant([1.0, 0.0]), tf.constant([0.0, 1.0])
    assert with_gradients(ops.kl_categorical)(p, q)[1][1].numpy().tolist() == [0, 0]
    taught = with_gradients(lambda p, q: ops.kl_categorical(p, q, gradient="straight_through"))(p, q)[1][1]
    assert taught.numpy().tolist() == [-(2.0**63), 0]
    with pytest.raises(ValueError, match="`gradient` must be one of"):
        ops.kl_categorical(p, q, gradient="none")


def test_broadcasting():
    """Parameters of different shapes and kinds are broadcast, and their gradients summed back."""
    mean, log_variance = tf.ones([3, 1]), tf.zeros([4])
    value, gradients = with_gradients(lambda m, v: ops.kl_normal(m, log_variance=v))(mean, log_variance)
    assert value.shape == (3, 4)
    assert gradients[0].numpy().tolist() == [[4], [4], [4]]
    assert gradients[1].shape == (4,)
    assert ops.kl_normal([0.0, 1.0], 1, [[1], [2], [3]], np.float32(2)).shape == (3, 2)
    assert ops.kl_normal(tf.zeros(2, tf.float16), 1.0).dtype == tf.float16
    assert ops.kl_dirichlet(tf.ones([5, 0])).shape == (5,)


@pytest.mark.parametrize(
    "given",
    [{}, {"scale": 1.0, "log_variance": 0.0}, {"scale": 1.0, "other_scale": 1.0, "other_log_variance": 0.0}],
)
def test_spread_must_be_given_once(given):
    """A normal distribution with no spread or two is a clear error."""
    with pytest.raises(ValueError, match=r"either its scale or its log variance. Received: scale="):
        ops.kl_normal(0.0, **given)


def test_alike():
    """Between parameters that are nearly the same a divergence keeps its digits, for tiny parameters too."""
    near = [
        (ops.kl_poisson, (1e-7, 1.1e-7)),
        (ops.kl_exponential, (1e6, 1.1e6)),
        (ops.kl_bernoulli, (1e-7, 1.1e-7)),
        (lambda a, b: ops.kl_laplace(0.0, a, 0.0, b), (1e-7, 1.1e-7)),
        (lambda a, b: ops.kl_normal(0.0, a, 0.0, b), (1e-7, 1.1e-7)),
        (lambda a, b: ops.kl_categorical([a], [b]), (1e-7, 1.1e-7)),
    ]
    for function, parameters in near:
        single, double = (float(function(*map(dtype, parameters))) for dtype in (np.float32, np.float64))
        assert np.isclose(single, double, rtol=1e-4)
