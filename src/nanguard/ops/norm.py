"""Lengths, directions and distances of vectors, with a gradient at the zero vector and between equal points."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import tensorflow as tf

from nanguard.hazards import (
    ARITHMETIC_OVERFLOW,
    DIVISION_BY_ZERO,
    EPSILON_ABSORBED_BY_DTYPE,
    FLOAT16_RANGE,
    GRADIENT_PENALTY_NORM_AT_ZERO,
    RSQRT_OF_ZERO,
    SQRT_GRADIENT_AT_ZERO,
    SQRT_OF_NEGATIVE,
)
from nanguard.ops._bounds import bounded, check_choice, clamp, format_of, largest_slope, reduce_to_shape_of
from nanguard.ops._operation import TensorLike, cures, to_float, to_floats
from nanguard.ops._scaling import (
    Axis,
    along,
    cut,
    inverse_power_of_two,
    narrowed,
    power_of_two,
    sum_of_squares,
    widened,
    without_axes,
)

Order: TypeAlias = "float | str | None"
Metric: TypeAlias = Literal["euclidean", "squared_euclidean", "manhattan", "cosine"]
Method: TypeAlias = Literal["product", "difference"]


@cures(
    SQRT_GRADIENT_AT_ZERO,
    GRADIENT_PENALTY_NORM_AT_ZERO,
    ARITHMETIC_OVERFLOW,
    FLOAT16_RANGE,
    replaces=("tf.norm", "tf.linalg.norm", "keras.ops.norm"),
    kind="reduction",
    aliases={"tensor": "x"},
)
def norm(x: TensorLike, ord: Order = "euclidean", axis: Axis = None, keepdims: bool | None = False) -> tf.Tensor:
    """Norm of vectors, whose gradient is 0 at the zero vector, also when it is differentiated once more.

    The Euclidean norm is `sqrt(sum(x ** 2))`, with the bits of `tf.norm` where that sum is a number of full
    precision, and scaled by a power of two where it would overflow or vanish. A norm beyond the largest number is cut
    to it. Its gradient is `x / norm(x)`, at most 1, and 0 beyond 8.5e37 (float32). The second derivative, which a
    gradient penalty needs, is bounded by `1 / norm(x) <= 9.2e18` (float32) and 0 at 0.

    A NaN in `x` comes out as NaN. An infinity has the plain op's answer: the norm is infinite and its gradient NaN.

    Args:
        x: Floating tensor, any shape. Half precision is summed in float32.
        ord: "euclidean", "fro", 1, 2, `np.inf` or any other number `> 0`; None is "euclidean". For two axes "fro", 1
            and `np.inf`, as in `tf.norm`; 2 is the largest singular value there: take `svd`.
        axis: An axis for vectors, two for matrices, or None to take all of `x` as one vector.
        keepdims: Whether the reduced axes stay, as 1.

    Returns:
        Tensor of the dtype of `x` without the reduced axes, `>= 0`; finite for finite `x`.

    Raises:
        ValueError: If there is no such order for these axes.

    Example:

    >>> norm([[3.0, 4.0], [0.0, 0.0]], axis=1).numpy()
    array([5., 0.], dtype=float32)
    >>> norm([3e20, 4e20]).numpy()
    np.float32(5e+20)

    Cures:
        NG301 sqrt-gradient-at-zero, NG306 gradient-penalty-norm-at-zero, NG202 arithmetic-overflow,
        NG401 float16-range

    References:
        Blue, *A Portable Fortran Program to Find the Euclidean Norm of a Vector*, ACM TOMS 4, 1978.
    """
    x = to_float(x)
    wide = widened(x)
    is_matrix = not (axis is None or isinstance(axis, int)) and len(axis) == 2
    if ord in (None, "euclidean", "fro") or (ord == 2 and not is_matrix):
        y = _euclidean(wide, axis, largest_slope(x))
    elif is_matrix and ord in (1, math.inf) and not (axis is None or isinstance(axis, int)):
        rows, columns = (axis[0] % x.shape.rank, axis[1] % x.shape.rank)
        summed, other = (rows, columns) if ord == 1 else (columns, rows)
        y = _largest(_sum_of_sizes(wide, summed), other)
    elif is_matrix or isinstance(ord, str) or ord is None or not ord > 0:
        raise ValueError(
            "`ord` must be 'euclidean', 'fro', 1, 2, np.inf or a positive number, and for two axes 'fro', 1 or np.inf. "
            f"Received: ord={ord!r}, axis={axis}. For the largest singular value take `nanguard.ops.svd`."
        )
    elif ord == 1:
        y = _sum_of_sizes(wide, axis)
    elif ord == math.inf:
        y = _largest(tf.abs(wide), axis)
    else:
        y = _power_norm(wide, float(ord), axis, largest_slope(x))
    return narrowed(without_axes(y, axis, bool(keepdims)), x.dtype)


@cures(
    RSQRT_OF_ZERO,
    DIVISION_BY_ZERO,
    SQRT_GRADIENT_AT_ZERO,
    EPSILON_ABSORBED_BY_DTYPE,
    ARITHMETIC_OVERFLOW,
    FLOAT16_RANGE,
    replaces=("tf.math.l2_normalize", "tf.nn.l2_normalize", "keras.ops.normalize"),
    kind="other",
)
def l2_normalize(x: TensorLike, axis: Axis = None, epsilon: float = 1e-12) -> tf.Tensor:
    """Vectors divided by their length, 0 for the zero vector, in half precision and for large numbers too.

    Computes `x / sqrt(max(sum(x ** 2), epsilon))`, with the bits of `tf.math.l2_normalize` where that sum is finite.
    Vectors whose squares overflow are scaled first. In float16 the sum is float32, where `epsilon` is not lost. The
    gradient is that of the formula; its slope is at most `1 / sqrt(epsilon)`, a million for the default.

    A NaN in `x` makes its vector NaN. So does an infinity.

    Args:
        x: Floating tensor, any shape.
        axis: Axis or axes of one vector. Defaults to all, as in TensorFlow; `keras.ops.normalize` takes the last.
        epsilon: Smallest squared length that is divided by, `>= 0`. Raised to the dtype's smallest normal number
            (3.7e-09 for float16 gradients), below which the slope's square would not be finite. Defaults to
            TensorFlow's 1e-12.

    Returns:
        Tensor of the shape and dtype of `x`, in `[-1, 1]`; finite for finite `x`.

    Raises:
        ValueError: If `epsilon` is negative or not finite.

    Example:

    >>> l2_normalize([[3.0, 4.0], [0.0, 0.0]], axis=1).numpy()
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)

    Cures:
        NG107 rsqrt-of-zero, NG105 division-by-zero, NG301 sqrt-gradient-at-zero, NG402 epsilon-absorbed-by-dtype,
        NG202 arithmetic-overflow, NG401 float16-range
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"`epsilon` must be 0 or positive. Received: epsilon={epsilon}. To use 1e-12, leave it out.")
    x = to_float(x)
    floor = _raised(epsilon, x)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def normalized(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        squares = tf.reduce_sum(tf.square(x), axis, keepdims=True)
        inverse = tf.math.rsqrt(tf.maximum(squares, tf.constant(floor, x.dtype)))

        def as_it_is() -> tuple[tf.Tensor, tf.Tensor]:
            return x * inverse, inverse

        def rescaled() -> tuple[tf.Tensor, tf.Tensor]:
            squares, scale = sum_of_squares(x, axis, low=0.0)
            inverse = tf.math.rsqrt(tf.maximum(squares, tf.constant(floor, x.dtype)))
            return (x * scale) * inverse, inverse * scale

        is_finite = tf.reduce_all(squares <= tf.constant(format_of(x).max, x.dtype))
        y, inverse = tf.cond(is_finite, as_it_is, rescaled)
        is_divided = tf.cast(squares > tf.constant(floor, x.dtype), x.dtype)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            radial = tf.reduce_sum(upstream * y, axis, keepdims=True)
            return upstream * inverse - y * (radial * inverse * is_divided)

        return y, backward

    return narrowed(normalized(widened(x)), x.dtype)


@cures(
    DIVISION_BY_ZERO,
    RSQRT_OF_ZERO,
    SQRT_GRADIENT_AT_ZERO,
    EPSILON_ABSORBED_BY_DTYPE,
    ARITHMETIC_OVERFLOW,
    FLOAT16_RANGE,
    kind="reduction",
    operands=2,
)
def cosine_similarity(x: TensorLike, y: TensorLike, axis: Axis = -1, *, epsilon: float = 1e-12) -> tf.Tensor:
    """Cosine of the angle between vectors, in `[-1, 1]`, and 0 where one of them is the zero vector.

    Computes `sum(l2_normalize(x) * l2_normalize(y))`, cut to `[-1, 1]` against the last rounding; the cut changes no
    gradient. Vectors shorter than `sqrt(epsilon)` count as less: their similarity shrinks to 0 with them. The slope
    is at most `1 / sqrt(epsilon)`. `keras.losses.cosine_similarity` is the negative of it.

    A NaN or infinity in a vector makes its similarity NaN.

    Args:
        x: Floating tensor.
        y: Floating tensor, broadcast with `x`.
        axis: Axis or axes of one vector. Defaults to the last.
        epsilon: Smallest squared length that is divided by, `>= 0`. Defaults to 1e-12, as in `l2_normalize`.

    Returns:
        Tensor without the reduced axes; finite for finite operands.

    Raises:
        ValueError: If `epsilon` is negative or not finite.

    Example:

    >>> cosine_similarity([[3.0, 4.0], [0.0, 0.0]], [1.0, 0.0]).numpy()
    array([0.6, 0. ], dtype=float32)

    Cures:
        NG105 division-by-zero, NG107 rsqrt-of-zero, NG301 sqrt-gradient-at-zero, NG402 epsilon-absorbed-by-dtype,
        NG202 arithmetic-overflow, NG401 float16-range
    """
    x, y = to_floats(x, y)
    epsilon = _raised(epsilon, x)
    products = l2_normalize(widened(x), axis, epsilon) * l2_normalize(widened(y), axis, epsilon)
    return narrowed(clamp(tf.reduce_sum(products, axis), -1.0, 1.0, gradient="straight_through"), x.dtype)


@cures(
    SQRT_GRADIENT_AT_ZERO,
    SQRT_OF_NEGATIVE,
    DIVISION_BY_ZERO,
    ARITHMETIC_OVERFLOW,
    FLOAT16_RANGE,
    kind="other",
)
def pairwise_distances(
    x: TensorLike, y: TensorLike | None = None, *, metric: Metric = "euclidean", method: Method = "product"
) -> tf.Tensor:
    """Matrix of the distances between all points, never the root of a negative, and with gradient 0 at equal points.

    It has the name that scikit-learn gives it. The product method works on `|x|^2 + |y|^2 - 2 x.y`, after the mean of
    the points is taken off. Where that is no more than the rounding of its terms the points count as equal: distance
    0, gradient 0. So distances below about 2e-3 of the spread of the points (float32) come out as 0. The difference
    method tells them apart: it works on `x - y`, at the memory of `n * m * d` numbers instead of `n * m`.

    A NaN in a point makes its distances NaN; so does an infinity.

    Args:
        x: Floating tensor of points, `(..., n, d)`.
        y: The points to measure to, `(..., m, d)`. Defaults to `x` itself.
        metric: "euclidean"; "squared_euclidean"; "manhattan", always by differences; or "cosine", which is
            `1 - cosine_similarity`.
        method: "product", the default since it is what fits into memory for batches of embeddings, or "difference".

    Returns:
        Tensor `(..., n, m)`, `>= 0`; finite for finite points.

    Raises:
        ValueError: If there is no such metric or method.

    Example:

    >>> pairwise_distances([[0.0, 0.0], [3.0, 4.0]]).numpy()
    array([[0., 5.],
           [5., 0.]], dtype=float32)

    Cures:
        NG301 sqrt-gradient-at-zero, NG106 sqrt-of-negative, NG105 division-by-zero, NG202 arithmetic-overflow,
        NG401 float16-range
    """
    check_choice("metric", metric, ("euclidean", "squared_euclidean", "manhattan", "cosine"))
    check_choice("method", method, ("product", "difference"))
    x = to_float(x)
    is_own = y is None
    x, y = (x, x) if y is None else to_floats(x, y)
    dtype, limit, epsilon = x.dtype, largest_slope(x), _raised(1e-12, x)
    x, y = widened(x), widened(y)
    if metric == "cosine":
        x, y = l2_normalize(x, -1, epsilon), l2_normalize(y, -1, epsilon)
        similarity = tf.matmul(x, y, transpose_b=True)
        distances = clamp(1 - similarity, 0.0, 2.0, gradient="straight_through")
    elif metric == "manhattan" or method == "difference":
        differences = bounded(tf.expand_dims(x, -2) - tf.expand_dims(y, -3), format_of(x).max)
        if metric == "manhattan":
            distances = tf.squeeze(_sum_of_sizes(differences, -1), -1)
        elif metric == "euclidean":
            distances = tf.squeeze(_euclidean(differences, -1, limit), -1)
        else:
            distances = _sum_of_bounded_squares(differences, limit)
    else:
        distances = _by_product(x, y, is_own, metric == "euclidean", limit)
    return narrowed(distances, dtype)


def _raised(epsilon: float, x: tf.Tensor) -> float:
    """Gives an epsilon whose inverse root is a slope that the dtype of `x` can bear."""
    return float(max(epsilon, largest_slope(x) ** -2))


def _euclidean(x: tf.Tensor, axis: Axis, limit: float) -> tf.Tensor:
    """Gives the Euclidean norm with the reduced axes as 1."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def measured(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        squares, scale = sum_of_squares(x, axis)
        root = tf.sqrt(squares)
        # Not cut where an infinity came in.
        y = tf.where(tf.math.is_inf(squares), squares, cut(root / scale))

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return along(x, upstream, root, scale, axis, limit)

        return y, backward

    return measured(x)


def _sum_of_sizes(x: tf.Tensor, axis: Axis) -> tf.Tensor:
    """Gives `sum(|x|)` with the reduced axes as 1, cut to the largest number."""
    largest = format_of(x).max
    return clamp(tf.reduce_sum(tf.abs(x), axis, keepdims=True), high=largest, gradient="straight_through")


def _largest(sizes: tf.Tensor, axis: Axis) -> tf.Tensor:
    """Gives the largest of some sizes, and 0 of none, with the reduced axes as 1."""
    return tf.maximum(tf.reduce_max(sizes, axis, keepdims=True), 0)


def _power_norm(x: tf.Tensor, ord: float, axis: Axis, limit: float) -> tf.Tensor:
    """Gives `sum(|x| ** ord) ** (1 / ord)` with the reduced axes as 1."""
    limits = format_of(x)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def measured(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        sizes = tf.abs(x)
        powers = tf.reduce_sum(sizes**ord, axis, keepdims=True)
        is_fine = (powers >= limits.smallest_normal / limits.eps) & (powers <= limits.max)

        def as_it_is() -> tuple[tf.Tensor, tf.Tensor]:
            return powers, tf.ones_like(powers)

        def rescaled() -> tuple[tf.Tensor, tf.Tensor]:
            largest = tf.reduce_max(sizes, axis, keepdims=True)
            scale = tf.where(is_fine, tf.ones_like(powers), inverse_power_of_two(largest))
            return tf.reduce_sum((sizes * scale) ** ord, axis, keepdims=True), scale

        powers, scale = tf.cond(tf.reduce_all(is_fine), as_it_is, rescaled)
        is_zero = tf.equal(powers, 0)
        root = tf.where(is_zero, tf.ones_like(powers), powers) ** (1 / ord)
        y = tf.where(is_zero, powers, cut(root / scale))

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            shares = clamp(tf.abs(x) * tf.math.divide_no_nan(scale, root), low=limits.floor)
            return tf.sign(x) * bounded(shares ** (ord - 1), limit) * upstream

        return y, backward

    return measured(x)


def _sum_of_bounded_squares(x: tf.Tensor, limit: float) -> tf.Tensor:
    """Gives the sum of squares along the last axis, cut to the largest number, with bounded slopes."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def measured(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return bounded(2 * x, limit) * tf.expand_dims(upstream, -1)

        return cut(tf.reduce_sum(tf.square(x), -1)), backward

    return measured(x)


def _by_product(x: tf.Tensor, y: tf.Tensor, is_own: bool, take_root: bool, limit: float) -> tf.Tensor:
    """Gives the Euclidean distances or their squares from the products of the points."""
    # A distance does not depend on where the origin is; its rounding does.
    center = tf.reduce_mean(_finite_or_zero(y) / 2, -2, keepdims=True) * 2
    x, y = _shift(x, center), _shift(y, center)
    # Of each matrix: in the unit of another one of the batch it might vanish.
    largest = tf.maximum(*(_largest(tf.abs(_finite_or_zero(points)), [-2, -1]) for points in (x, y)))
    unit = power_of_two(largest)
    # Found for the rounding of equal points of up to 4096 numbers.
    num = tf.cast(tf.shape(x)[-1], x.dtype)
    noise = format_of(x).eps * (4 + 2 * tf.sqrt(num))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def measured(points: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, object]:
        x, y = points / unit, others / unit
        x_square, y_square = tf.reduce_sum(tf.square(x), -1), tf.reduce_sum(tf.square(y), -1)
        sums = x_square[..., :, None] + y_square[..., None, :]
        squares = sums - 2 * tf.matmul(x, y, transpose_b=True)
        if is_own:
            squares = tf.linalg.set_diag(squares, 0 * x_square)
        is_equal = squares <= noise * sums
        root = tf.sqrt(tf.where(is_equal, tf.ones_like(squares), squares))
        distances = cut(root * unit if take_root else tf.square(root) * unit * unit)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            weights = upstream / root if take_root else upstream * (2 * tf.minimum(unit, limit / 8))
            weights = tf.where(is_equal, tf.zeros_like(squares), weights)
            for_x = tf.reduce_sum(weights, -1, keepdims=True) * x - tf.matmul(weights, y)
            from_y = tf.expand_dims(tf.reduce_sum(weights, -2), -1) * y
            for_y = from_y - tf.matmul(weights, x, transpose_a=True)
            return reduce_to_shape_of(for_x, points), reduce_to_shape_of(for_y, others)

        return tf.where(is_equal, tf.zeros_like(squares), distances), backward

    return measured(x, y)


def _finite_or_zero(x: tf.Tensor) -> tf.Tensor:
    return tf.stop_gradient(tf.where(tf.math.is_finite(x), x, tf.zeros_like(x)))


def _shift(x: tf.Tensor, center: tf.Tensor) -> tf.Tensor:
    """Gives `x - center`, which is cut to the largest number, with the gradient of `x`."""
    return clamp(x - center, -format_of(x).max, format_of(x).max, gradient="straight_through")
