"""Magnitudes of complex numbers and spectra, where there is silence and where squares overflow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from numbers_of import DTYPES, MODES, in_mode, largest_slope, special, with_gradients
from vectors import assert_finite

from nanguard import ops
from nanguard.intervals import float_format

every_mode = pytest.mark.parametrize("mode", MODES)
every_complex = pytest.mark.parametrize("dtype", ["float32", "float64"])


def complex_numbers(dtype):
    parts = np.array(list(itertools.product(special(dtype), repeat=2)))
    return tf.complex(tf.constant(parts[:, 0]), tf.constant(parts[:, 1]))


@every_complex
@every_mode
def test_magnitude_is_finite(dtype, mode):
    """All complex numbers have a finite magnitude and a gradient that is no longer than 1."""
    z = complex_numbers(dtype)
    value, (gradient,) = in_mode(with_gradients(ops.magnitude), mode)(z)
    assert np.isfinite(value).all()
    assert np.abs(gradient.numpy().astype("complex128")).max() <= 1 + 4 * float_format(dtype).eps
    plain = in_mode(tf.abs, mode)(z).numpy()
    is_finite = np.isfinite(plain)
    assert np.array_equal(value.numpy()[is_finite], plain[is_finite])


@every_complex
@every_mode
def test_magnitude_learns(dtype, mode):
    """The gradient is z / |z|, for tiny numbers too, and 0 at 0."""
    tiny = float_format(dtype).smallest_normal * 4
    z = tf.constant([3 + 4j, 0j, complex(3 * tiny, 4 * tiny), complex(-1e10, 0)], z_dtype(dtype))
    gradient = in_mode(with_gradients(ops.magnitude), mode)(z)[1][0]
    assert np.allclose(gradient, [0.6 + 0.8j, 0, 0.6 + 0.8j, -1], rtol=1e-6)


@every_mode
def test_magnitude_twice(mode):
    """The second derivative is that of the formula, 0 at 0 and bounded near it."""

    def second(re, im):
        with tf.GradientTape() as outer:
            outer.watch([re, im])
            gradients = with_gradients(lambda re, im: ops.magnitude(tf.complex(re, im)))(re, im)[1]
            y = tf.reduce_sum(gradients[0] + 2 * gradients[1])
        return outer.gradient(y, [re, im])

    found = np.stack(in_mode(second, mode)(tf.constant([3.0, 0.0, 1e-30]), tf.constant([4.0, 0.0, 1e-30])), -1)
    unit, upstream = np.array([0.6, 0.8]), np.array([1.0, 2.0])
    assert np.allclose(found[0], (upstream - unit * (unit @ upstream)) / 5, rtol=1e-5)
    assert found[1].tolist() == [0, 0]
    assert np.abs(found[2]).max() <= 2 * largest_slope("float32")


def test_magnitude_of_nan_and_of_real_numbers():
    """A NaN in a part comes out, and a real number has its absolute value."""
    assert np.isnan(ops.magnitude(tf.constant([complex(np.nan, 0), complex(0, np.nan)]))).all()
    assert ops.magnitude([-2.0, 3.0]).numpy().tolist() == [2, 3]


@pytest.mark.parametrize("dtype", DTYPES)
@every_mode
def test_spectrum_of_silence(dtype, mode):
    """Silent, loud and ordinary signals have finite spectra and gradients."""
    random = np.random.default_rng(0)
    limits = float_format(dtype)
    loud = limits.max * random.choice([-1.0, 1.0], 64)
    signals = np.stack([np.zeros(64), random.normal(size=64), loud, np.full(64, limits.smallest_normal)])
    # Each sample is part of some 2 * 17 magnitudes.
    value, gradients = assert_finite(lambda x: ops.stft_magnitude(x, 32, 16), dtype, mode, signals, share=64)
    assert value.shape == (4, 3, 17)
    assert not np.any(gradients[0][0])


@every_complex
def test_spectrum(dtype):
    """A spectrum is that of tf.signal, bit for bit."""
    signals = tf.constant(np.random.default_rng(1).normal(size=(2, 100)), dtype)
    plain = tf.abs(tf.signal.stft(signals, 32, 16, 64, tf.signal.hamming_window, True))
    assert np.array_equal(ops.stft_magnitude(signals, 32, 16, 64, tf.signal.hamming_window, True), plain)


def z_dtype(dtype):
    return "complex64" if dtype == "float32" else "complex128"
