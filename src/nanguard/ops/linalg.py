"""Factors of matrices that are singular, indefinite or have equal eigenvalues."""

from __future__ import annotations

import math

import tensorflow as tf

from nanguard.hazards import ARITHMETIC_OVERFLOW, DEGENERATE_MATRIX, LOG_OF_NONPOSITIVE
from nanguard.ops._bounds import bounded, check_positive, format_of, largest_slope
from nanguard.ops._operation import TensorLike, cures, to_float
from nanguard.ops._scaling import cut, narrowed, power_of_two, widened


@cures(
    DEGENERATE_MATRIX,
    ARITHMETIC_OVERFLOW,
    replaces=("tf.linalg.cholesky", "keras.ops.cholesky"),
    kind="other",
    aliases={"input": "x"},
)
def cholesky(x: TensorLike, *, jitter: float | None = None) -> tf.Tensor:
    """Lower Cholesky factor, with as little added to the diagonal as makes the matrix positive definite.

    A positive definite matrix has the factor of `tf.linalg.cholesky`, bit for bit, and its gradient. To any other is
    added, on the diagonal, `jitter` times the largest row sum of its absolute values, then ten times that, and so on:
    the first that succeeds is taken, for each matrix of a batch by itself. The last, twice the row sum, succeeds for
    every finite matrix. The gradient is that of the factor of the matrix with its jitter, bounded.

    A NaN or infinity in a matrix makes its factor NaN.

    Args:
        x: Floating tensor of symmetric matrices, `(..., n, n)`. The lower triangle is read.
        jitter: First of the jitters to try, relative to the largest row sum, `> 0`. Defaults to the dtype's eps,
            1.2e-07 in float32: the rounding of a matrix of that size. In half precision the work is done in float32.

    Returns:
        Tensor of the shape and dtype of `x`, lower triangular; finite for finite `x`. For the solution of a system give
        it to `tf.linalg.cholesky_solve`.

    Raises:
        ValueError: If `jitter` is not positive.

    Example:

    >>> cholesky([[4.0, 2.0], [2.0, 5.0]]).numpy()
    array([[2., 0.],
           [1., 2.]], dtype=float32)
    >>> cholesky([[1.0, 1.0], [1.0, 1.0]]).numpy()
    array([[1.0000001e+00, 0.0000000e+00],
           [9.9999988e-01, 6.9053395e-04]], dtype=float32)

    Cures:
        NG504 degenerate-matrix, NG202 arithmetic-overflow

    References:
        Murray, *Differentiation of the Cholesky decomposition*, arXiv:1602.07527, 2016, equation 10.
        Nocedal, Wright, *Numerical Optimization*, Springer 2006, algorithm 3.3, for the growing jitter.
    """
    check_positive("jitter", jitter, "the dtype's eps")
    x = to_float(x)
    wide = _with_bounded_gradient(widened(x), largest_slope(x))
    # Nothing is to be differentiated from here to the factor: XLA has no gradient for a loop inside a condition.
    matrix = tf.stop_gradient(wide)
    plain = tf.linalg.cholesky(matrix)
    # A matrix that is not finite has no jitter that helps.
    is_done = _are_finite(plain) | ~_are_finite(matrix)

    def as_it_is() -> tf.Tensor:
        return plain

    def with_jitter() -> tf.Tensor:
        return _with_jitter(matrix, plain, is_done, jitter or format_of(matrix).eps)

    factor = tf.cond(tf.reduce_all(is_done), as_it_is, with_jitter)
    return narrowed(_with_gradient_of_cholesky(wide, factor), x.dtype)


@cures(
    DEGENERATE_MATRIX,
    LOG_OF_NONPOSITIVE,
    ARITHMETIC_OVERFLOW,
    replaces=("tf.linalg.logdet",),
    kind="other",
    aliases={"matrix": "x"},
)
def logdet(x: TensorLike, *, jitter: float | None = None) -> tf.Tensor:
    """Logarithm of the determinant of positive definite matrices, with the jitter of `cholesky` for others.

    Computes `2 * sum(log(diag(cholesky(x))))`, as `tf.linalg.logdet` does. For a singular matrix it is large and
    negative and has a gradient that leads away from there.

    A NaN or infinity in a matrix makes it NaN.

    Args:
        x: Floating tensor of symmetric matrices, `(..., n, n)`. The lower triangle is read.
        jitter: See `cholesky`.

    Returns:
        Tensor `(...)` of the dtype of `x`; finite for finite `x`.

    Raises:
        ValueError: If `jitter` is not positive.

    Example:

    >>> logdet([[1.0, 0.0], [0.0, 1.0]]).numpy()
    np.float32(0.0)

    Cures:
        NG504 degenerate-matrix, NG101 log-of-nonpositive, NG202 arithmetic-overflow
    """
    x = to_float(x)
    limit = largest_slope(x)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of_matrices(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = 2 * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(cholesky(x, jitter=jitter))), -1)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            slope = bounded(tape.gradient(y, x), limit)
            # Where the inverse, which the slope is, takes more than the dtype holds, infinities meet on the way to it.
            is_lost = tf.math.is_nan(slope) & tf.reduce_all(tf.math.is_finite(x), [-2, -1], keepdims=True)
            return upstream[..., None, None] * tf.where(is_lost, tf.zeros_like(slope), slope)

        return y, backward

    return narrowed(of_matrices(widened(x)), x.dtype)


@cures(
    DEGENERATE_MATRIX,
    ARITHMETIC_OVERFLOW,
    replaces=("tf.linalg.eigh", "keras.ops.eigh"),
    kind="other",
    aliases={"tensor": "x"},
)
def eigh(x: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices, with a gradient at equal eigenvalues and in half precision.

    Gives what `tf.linalg.eigh` gives, whose gradient treats eigenvalues that are equal as if they did not turn into
    one another (measured: TensorFlow 2.21; the slope there is at most 5e9). Matrices with numbers beyond 1e9 are scaled
    by a power of two first, and slopes are bounded.

    A NaN or infinity in a matrix makes its results and gradients NaN. `tf.linalg.eigh` stops the program there.

    Args:
        x: Floating tensor of symmetric matrices, `(..., n, n)`. The lower triangle is read.

    Returns:
        The eigenvalues `(..., n)`, ascending, and the eigenvectors `(..., n, n)` in columns; finite for finite `x`.

    Example:

    >>> values, vectors = eigh([[2.0, 0.0], [0.0, 2.0]])
    >>> values.numpy()
    array([2., 2.], dtype=float32)

    Cures:
        NG504 degenerate-matrix, NG202 arithmetic-overflow

    References:
        Giles, *Collected Matrix Derivative Results for Forward and Reverse Mode Algorithmic Differentiation*, 2008.
    """
    x = to_float(x)
    matrix, unit = _prepared(x)
    values, vectors = tf.linalg.eigh(matrix)
    return narrowed(_rescaled(values, unit), x.dtype), narrowed(_restored(vectors, unit), x.dtype)


@cures(
    DEGENERATE_MATRIX,
    ARITHMETIC_OVERFLOW,
    replaces=("tf.linalg.svd",),
    kind="other",
    aliases={"tensor": "x"},
)
def svd(
    x: TensorLike, full_matrices: bool = False, compute_uv: bool = True
) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Singular values and vectors, with a gradient at equal and at large singular values and in half precision.

    Gives what `tf.linalg.svd` gives, whose gradient treats values that are equal as if they did not turn into one
    another (measured: TensorFlow 2.21). It squares the values, so matrices with numbers beyond 1e9 are scaled by a
    power of two first; slopes are bounded.

    A NaN or infinity in a matrix makes its results and gradients NaN.

    Args:
        x: Floating tensor of matrices, `(..., m, n)`.
        full_matrices: Whether the vectors are completed to square matrices. TensorFlow has no gradient for that unless
            the matrices are square.
        compute_uv: Whether to give the vectors too.

    Returns:
        The singular values `(..., min(m, n))`, descending, and, with `compute_uv`, the left and right singular vectors
        in columns; finite for finite `x`.

    Example:

    >>> svd([[3.0, 0.0], [0.0, 3.0]], compute_uv=False).numpy()
    array([3., 3.], dtype=float32)

    Cures:
        NG504 degenerate-matrix, NG202 arithmetic-overflow

    References:
        Giles, *Collected Matrix Derivative Results for Forward and Reverse Mode Algorithmic Differentiation*, 2008.
    """
    x = to_float(x)
    matrix, unit = _prepared(x)
    if not compute_uv:
        values = tf.linalg.svd(matrix, compute_uv=False)
        return narrowed(_rescaled(values, unit), x.dtype)
    values, left, right = tf.linalg.svd(matrix, full_matrices=full_matrices)
    results = _rescaled(values, unit), _restored(left, unit), _restored(right, unit)
    return tuple(narrowed(y, x.dtype) for y in results)


def _with_jitter(x: tf.Tensor, plain: tf.Tensor, is_done: tf.Tensor, first: float) -> tf.Tensor:
    """Gives `plain` where it is done, and elsewhere the factor with the first jitter that succeeds."""
    largest = tf.reduce_max(tf.abs(x), [-2, -1], keepdims=True)
    # So that neither the matrix with its jitter overflows nor the jitter vanishes.
    unit = power_of_two(tf.sqrt(tf.where(largest > 0, largest, tf.ones_like(largest))))
    scaled = x / unit / unit
    row_sums = tf.reduce_sum(tf.abs(scaled), -1, keepdims=True)
    step = tf.maximum(tf.reduce_max(row_sums, -2, keepdims=True), 1)
    num_tries = math.ceil(math.log10(2 / first)) + 1

    def is_left(_: tf.Tensor, __: tf.Tensor, ___: tf.Tensor, is_done: tf.Tensor) -> tf.Tensor:
        return ~tf.reduce_all(is_done)

    def again(
        num: tf.Tensor, jitter: tf.Tensor, factor: tf.Tensor, is_done: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        diagonal = tf.linalg.diag_part(scaled) + tf.squeeze(jitter * step, -1)
        tried = tf.linalg.cholesky(tf.linalg.set_diag(scaled, diagonal))
        factor = tf.where(is_done, factor, tried * unit)
        return num + 1, jitter * 10, factor, is_done | _are_finite(tried)

    start = (tf.constant(0), tf.constant(first, x.dtype), plain, is_done)
    return tf.while_loop(is_left, again, start, maximum_iterations=max(num_tries, 1))[2]


def _are_finite(x: tf.Tensor) -> tf.Tensor:
    """Gives which matrices are finite, with the axes of the matrices as 1."""
    return tf.reduce_all(tf.math.is_finite(x), [-2, -1], keepdims=True)


def _unit(x: tf.Tensor) -> tf.Tensor:
    """Gives the power of two at the largest element of each matrix, with the axes of the matrices as 1."""
    return power_of_two(tf.reduce_max(tf.abs(x), [-2, -1], keepdims=True))


def _with_bounded_gradient(x: tf.Tensor, limit: float) -> tf.Tensor:
    """Gives `x`, and cuts the gradient that comes back."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def same(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return bounded(upstream, limit)

        return tf.identity(x), backward

    return same(x)


def _with_gradient_of_cholesky(x: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Gives `factor`, a constant, with the gradient that a Cholesky factor of `x` has."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def linked(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            unit = _unit(factor)
            # With its own gradient again, so that there is a second one.
            lower = _with_gradient_of_cholesky(x, factor) / unit
            identity = tf.eye(tf.shape(x)[-1], batch_shape=tf.shape(x)[:-2], dtype=x.dtype)
            # So that the square of it is finite.
            inverse = bounded(tf.linalg.triangular_solve(lower, identity), largest_slope(x) / 16)
            middle = tf.linalg.band_part(tf.matmul(lower, upstream, transpose_a=True), -1, 0)
            middle = tf.linalg.set_diag(middle, 0.5 * tf.linalg.diag_part(middle))
            gradient = tf.matmul(tf.matmul(inverse, middle, transpose_a=True), inverse)
            return 0.5 * (gradient + tf.linalg.matrix_transpose(gradient)) / unit

        return tf.identity(factor), backward

    return linked(x)


def _prepared(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives matrices that a decomposition can bear, and what they were divided by: NaN for one that is not finite."""
    wide = widened(x)
    is_finite = _are_finite(wide)
    unit = _unit(tf.where(is_finite, wide, tf.zeros_like(wide)))
    unit = tf.stop_gradient(tf.where(unit >= 2.0**30, unit, tf.ones_like(unit)))
    told = tf.where(is_finite, unit, tf.constant(math.nan, unit.dtype))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def divided(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            # The gradients that come back are those for `x` itself: see `_rescaled` and `_restored`.
            return bounded(tf.where(is_finite, upstream, told), largest_slope(x))

        return tf.where(is_finite, x, tf.zeros_like(x)) / unit, backward

    return divided(_with_bounded_gradient(wide, largest_slope(x))), told


def _rescaled(values: tf.Tensor, unit: tf.Tensor) -> tf.Tensor:
    """Gives `values * unit`, cut to the largest number, with the gradient for the matrix that was not divided.

    The factors of the way there and back cancel, and one of them alone would overflow.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def rescaled(values: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return upstream

        return cut(values * tf.squeeze(unit, -1)), backward

    return rescaled(values)


def _restored(vectors: tf.Tensor, unit: tf.Tensor) -> tf.Tensor:
    """Gives the vectors, as NaN where the unit is, with the gradient for the matrix that was not divided."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def restored(vectors: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return upstream / unit

        return tf.where(tf.math.is_nan(unit), unit, vectors), backward

    return restored(vectors)
