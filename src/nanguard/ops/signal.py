"""Magnitudes of complex numbers and spectra, with a gradient where there is silence."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from nanguard.hazards import ARITHMETIC_OVERFLOW, FLOAT16_RANGE, SQRT_GRADIENT_AT_ZERO
from nanguard.ops._bounds import bounded, largest_slope
from nanguard.ops._operation import TensorLike, cures, to_float
from nanguard.ops._scaling import cut, narrowed, power_of_two, widened


@cures(SQRT_GRADIENT_AT_ZERO, ARITHMETIC_OVERFLOW, replaces=("tf.abs", "tf.math.abs", "keras.ops.abs"), kind="other")
def magnitude(z: TensorLike) -> tf.Tensor:
    """Absolute value of complex numbers, whose gradient is 0 at 0, also when it is differentiated once more.

    Has the bits of `tf.abs`, and not the infinite slope of `sqrt(re ** 2 + im ** 2)` at 0. The gradient is
    `z / abs(z)`, of length 1, for tiny numbers too, where that of `tf.abs` is 0. A magnitude beyond the largest number
    is cut to it. The second derivative is bounded by `1 / abs(z) <= 9.2e18` (complex64).

    A NaN in either part comes out as NaN.

    Args:
        z: Complex tensor, any shape. Of a real one it is `tf.abs`.

    Returns:
        Real tensor of the shape of `z`, `>= 0`; finite for finite `z`.

    Example:

    >>> magnitude([3 + 4j, 0j]).numpy()
    array([5., 0.])

    Cures:
        NG301 sqrt-gradient-at-zero, NG202 arithmetic-overflow
    """
    z = tf.convert_to_tensor(z)
    if not z.dtype.is_complex:
        return tf.abs(z)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def measured(z: tf.Tensor) -> tuple[tf.Tensor, object]:
        size = cut(tf.abs(z))

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return _along(z, upstream, size)

        return size, backward

    return measured(z)


@cures(SQRT_GRADIENT_AT_ZERO, ARITHMETIC_OVERFLOW, FLOAT16_RANGE, kind="other")
def stft_magnitude(
    signals: TensorLike,
    frame_length: int,
    frame_step: int,
    fft_length: int | None = None,
    window_fn: Callable[..., tf.Tensor] | None = tf.signal.hann_window,
    pad_end: bool = False,
) -> tf.Tensor:
    """Magnitude spectrogram, `abs` of the short-time Fourier transform, with gradient 0 for a silent frame.

    Computes `magnitude(tf.signal.stft(...))`. Half precision, for which there is no transform, is taken to float32.
    Signals beyond 1.8e19 are scaled by a power of two, so that their sums do not overflow.

    A NaN or infinity in a signal makes the frames that hold it NaN.

    Args:
        signals: Floating tensor, `(..., samples)`.
        frame_length: Samples of a frame.
        frame_step: Samples from one frame to the next.
        fft_length: Samples that a frame is padded to. Defaults to the next power of two, as in `tf.signal.stft`.
        window_fn: From a length and a dtype to a window, or None for none. Defaults to a Hann window.
        pad_end: Whether the last frames are padded with zeros.

    Returns:
        Tensor `(..., frames, fft_length // 2 + 1)` of the dtype of `signals`, `>= 0`; finite for finite signals.

    Example:

    >>> stft_magnitude([0.0, 0.0, 0.0, 0.0], frame_length=4, frame_step=4).numpy()
    array([[0., 0., 0.]], dtype=float32)

    Cures:
        NG301 sqrt-gradient-at-zero, NG202 arithmetic-overflow, NG401 float16-range
    """
    x = to_float(signals)
    wide = widened(x)
    size = tf.reduce_max(tf.abs(tf.stop_gradient(wide)), -1, keepdims=True)
    unit = tf.where(size > 2.0**64, power_of_two(size), tf.ones_like(size))
    spectrum = tf.signal.stft(
        _with_gradient_of(wide, wide / unit), frame_length, frame_step, fft_length, window_fn, pad_end
    )
    scaled = magnitude(spectrum)
    return narrowed(_with_gradient_of(scaled, cut(scaled * unit[..., None])), x.dtype)


def _with_gradient_of(x: tf.Tensor, scaled: tf.Tensor) -> tf.Tensor:
    """Gives `scaled` with the gradient of `x`: the factors of the way there and back cancel, and one would overflow."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def linked(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return upstream

        return tf.identity(scaled), backward

    return linked(x)


def _along(z: tf.Tensor, upstream: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Gives `upstream * z / |z|`, 0 at 0, with a derivative that is finite too."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def pulled(z: tf.Tensor, upstream: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = _times(z, cut(tf.math.divide_no_nan(upstream, size)))

        def backward(g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inverse = cut(tf.math.divide_no_nan(tf.ones_like(size), size))
            direction = _times(z, inverse)
            along = tf.math.real(g) * tf.math.real(direction) + tf.math.imag(g) * tf.math.imag(direction)
            across = g - _times(direction, along)
            return _times(across, upstream * bounded(inverse, largest_slope(size))), along

        return y, backward

    return pulled(z, upstream)


def _times(z: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Gives a complex tensor times a real one."""
    return z * tf.complex(x, tf.zeros_like(x))
