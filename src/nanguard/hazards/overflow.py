"""Finite numbers whose result is too large, and what infinities turn into NaN afterwards."""

from __future__ import annotations

import math

from nanguard.hazards._hazard import Hazard, Region
from nanguard.intervals import FloatFormat, Interval, above, exactly, outside


def _beyond_exp(format: FloatFormat) -> Interval:
    return above(format.exp_limit)


def _above_sinh(format: FloatFormat) -> Interval:
    return above(format.sinh_limit)


def _below_sinh(format: FloatFormat) -> Interval:
    return outside(-format.sinh_limit, format.sinh_limit)[0]


def _above_square(format: FloatFormat) -> Interval:
    return above(format.square_limit)


def _below_square(format: FloatFormat) -> Interval:
    return outside(-format.square_limit, format.square_limit)[0]


_PLUS, _MINUS, _ZERO = exactly(math.inf), exactly(-math.inf), exactly(0)


def _both(first: Interval, second: Interval, *, ops: tuple[str, ...], is_certain: bool = True) -> Region:
    """The region where operand 0 is in the first and operand 1 in the second."""
    return Region(operand=0, within=first, also=(Region(operand=1, within=second),), ops=ops, is_certain=is_certain)


EXP_OVERFLOW = Hazard(
    code="NG201",
    name="exp-overflow",
    summary="exp(x) is infinite above 88.72 in float32 and bfloat16, 11.09 in float16.",
    cause="exp_overflow",
    phase="forward",
    ops=("Exp", "Expm1", "Sinh", "Cosh"),
    calls=(
        "tf.exp",
        "tf.math.exp",
        "tf.math.expm1",
        "tf.sinh",
        "tf.cosh",
        "keras.ops.exp",
        "keras.ops.expm1",
        "keras.ops.sinh",
        "keras.ops.cosh",
    ),
    strikes=(
        Region(operand=0, within=_beyond_exp, ops=("Exp", "Expm1")),
        Region(operand=0, within=_above_sinh, ops=("Sinh", "Cosh")),
        Region(operand=0, within=_below_sinh, ops=("Sinh", "Cosh")),
    ),
    needs="x <= 88.72 (float32, bfloat16), 11.08 (float16), 709.78 (float64)",
    cure=(
        "Use the function that never forms the large number (tf.math.softplus, tf.sigmoid, tf.nn.softmax, "
        "tf.reduce_logsumexp), or take ng.ops.exp(x), and bound a log-variance to [-10, 10]."
    ),
    replacements={
        "Exp": "ng.ops.exp({0})",
        "Expm1": "ng.ops.expm1({0})",
        "Sinh": "tf.sinh(tf.clip_by_value({0}, -{exp_limit}, {exp_limit}))",
        "Cosh": "tf.cosh(tf.clip_by_value({0}, -{exp_limit}, {exp_limit}))",
    },
    why=(
        "Log-variances of a VAE, log-ratios of PPO and hand-written softplus, mish or softmax feed exp with whatever "
        "a layer gives, and a few large steps are enough. The infinity may vanish again, as in 1 / (1 + exp(-x)), and "
        "come back as NaN in the gradient. A bound of 88 keeps exp itself finite, not the square of it."
    ),
    bad="tf.math.log(1.0 + tf.exp([1.0, 100.0]))",
    good="tf.math.softplus([1.0, 100.0])",
)

ARITHMETIC_OVERFLOW = Hazard(
    code="NG202",
    name="arithmetic-overflow",
    summary="A product, square or sum of finite numbers is beyond the dtype's largest.",
    cause="lr_too_high",
    phase="forward",
    ops=(
        "Mul",
        "Square",
        "SquaredDifference",
        "MatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "Einsum",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2dNative",
        "Conv2DBackpropInput",
        "Sum",
        "Mean",
        "Prod",
        "Cumsum",
        "Cumprod",
        "L2Loss",
        "AddV2",
        "Add",
        "AddN",
        "Sub",
        "BiasAdd",
        "RealDiv",
        "Pow",
        "EuclideanNorm",
    ),
    calls=("tf.square", "tf.math.square", "keras.ops.square"),
    strikes=(
        Region(operand=0, within=_above_square, ops=("Square",)),
        Region(operand=0, within=_below_square, ops=("Square",)),
    ),
    needs="numbers whose product or sum stays below 3.4e38 (float32) or 65504 (float16)",
    cure=(
        "Find what made the operands so large: lower the learning rate, clip gradients by norm, scale the inputs; for "
        "a norm of large numbers take ng.ops.norm(x), which divides by the largest first."
    ),
    why=(
        "A square overflows from 1.8e19 on and a mean sums before it divides, so numbers that are far from the limit "
        "get there in one op. In training this is where a divergence ends, several steps after it began: the op only "
        "had the bad luck to be first. A cast to float64 moves the limit and not the divergence."
    ),
    bad="tf.norm([3e20, 4e20])",
    good="ng.ops.norm([3e20, 4e20])",
)

INFINITY_MINUS_INFINITY = Hazard(
    code="NG203",
    name="infinity-minus-infinity",
    summary="The difference of two infinities of one sign is NaN.",
    cause="all_masked_softmax",
    phase="forward",
    ops=(
        "Sub",
        "AddV2",
        "Add",
        "AddN",
        "BiasAdd",
        "Sum",
        "Mean",
        "Cumsum",
        "Softmax",
        "LogSoftmax",
        "SoftmaxCrossEntropyWithLogits",
        "SparseSoftmaxCrossEntropyWithLogits",
    ),
    calls=("tf.subtract", "tf.add", "keras.ops.subtract", "keras.ops.add"),
    strikes=(
        _both(_PLUS, _PLUS, ops=("Sub",)),
        _both(_MINUS, _MINUS, ops=("Sub",)),
        _both(_PLUS, _MINUS, ops=("AddV2", "Add", "AddN", "BiasAdd")),
        _both(_MINUS, _PLUS, ops=("AddV2", "Add", "AddN", "BiasAdd")),
        # A reduction takes in both infinities only if they meet in one slice.
        Region(0, _PLUS, also=(Region(0, _MINUS),), ops=("Sum", "Mean", "Cumsum"), is_certain=False),
        # Softmax subtracts the largest entry from all of them.
        Region(
            0,
            _PLUS,
            ops=("Softmax", "LogSoftmax", "SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"),
        ),
    ),
    needs="at most one infinite operand",
    cure=(
        "Mask with a large finite number such as -1e9 (in float16 -6e4) instead of -inf, or mend where the infinity "
        "is born."
    ),
    why=(
        "An infinity by itself can be meant: as a mask it becomes 0 in a softmax. It turns into NaN where it meets "
        "another, as in x - reduce_max(x) of a fully masked row, or in a difference of two losses that both "
        "overflowed. If the infinity was not meant, this op only shows it: follow its operands to the op that made it "
        "from finite numbers."
    ),
    bad="""
        scores = tf.constant([-np.inf, -np.inf])
        scores - tf.reduce_max(scores)
    """,
    good="""
        scores = tf.constant([-1e9, -1e9])
        scores - tf.reduce_max(scores)
    """,
)

_MATRIX_OPS = ("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv2D")

ZERO_TIMES_INFINITY = Hazard(
    code="NG204",
    name="zero-times-infinity",
    summary="0 * inf and inf / inf are NaN: a mask of 0 does not erase an infinity.",
    cause="all_masked_softmax",
    phase="forward",
    ops=("Mul", *_MATRIX_OPS, "RealDiv"),
    calls=("tf.multiply", "tf.matmul", "keras.ops.multiply", "keras.ops.matmul"),
    strikes=(
        *(_both(_ZERO, infinity, ops=("Mul",)) for infinity in (_PLUS, _MINUS)),
        *(_both(infinity, _ZERO, ops=("Mul",)) for infinity in (_PLUS, _MINUS)),
        # The zero and the infinity must meet in the same product of the sum.
        *(_both(_ZERO, infinity, ops=_MATRIX_OPS, is_certain=False) for infinity in (_PLUS, _MINUS)),
        *(_both(infinity, _ZERO, ops=_MATRIX_OPS, is_certain=False) for infinity in (_PLUS, _MINUS)),
        *(_both(x, y, ops=("RealDiv",)) for x in (_PLUS, _MINUS) for y in (_PLUS, _MINUS)),
    ),
    needs="finite operands where the other one is 0",
    cure=(
        "Choose instead of multiplying, tf.where(mask > 0, x, 0.0) with an x that is finite, or write "
        "tf.math.multiply_no_nan(x, mask), which is 0 where the mask is."
    ),
    why=(
        "A loss times a 0/1 mask is the usual way to leave entries out, and it works until a left-out entry is "
        "infinite or NaN. tf.where mends the value; the gradient of the entry behind it is still computed and "
        "multiplied by 0, so make the input of the op that overflowed safe too."
    ),
    bad="""
        mask = tf.constant([1.0, 0.0])
        mask * tf.constant([0.5, np.inf])
    """,
    good="""
        mask = tf.constant([1.0, 0.0])
        tf.math.multiply_no_nan(tf.constant([0.5, np.inf]), mask)
    """,
)

HAZARDS = (EXP_OVERFLOW, INFINITY_MINUS_INFINITY, ZERO_TIMES_INFINITY, ARITHMETIC_OVERFLOW)
"""The most specific first, where several share an op."""
