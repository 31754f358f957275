"""Finite forward, non-finite backward: functions whose slope is infinite where their value is not."""

from __future__ import annotations

import textwrap

from nanguard.hazards._hazard import ANY_OP, Hazard, Region, near_zero, subnormal
from nanguard.intervals import FloatFormat, Interval, below, exactly


def _inverse_square_overflows(format: FloatFormat) -> Interval:
    """The numbers `y` for which `x / y**2`, the slope of `x / y`, may overflow with an `x` of up to 4."""
    limit = 2 / format.square_limit
    return Interval(-limit, limit, low_open=True, high_open=True)


def _square_vanishes(format: FloatFormat) -> Interval:
    """The numbers whose square is below the smallest normal number."""
    limit = format.smallest_normal**0.5
    return Interval(-limit, limit, low_open=True, high_open=True)


def _rsqrt_slope_overflows(format: FloatFormat) -> Interval:
    """The numbers `x` with an infinite `x**-1.5`; the slope of rsqrt is half of it."""
    return Interval(0, format.max ** (-2 / 3))


def _gradient(body: str, x: str = "[0.0, 4.0]") -> str:
    """An example that takes the gradient of `y`, which the lines of `body` compute from `x`."""
    lines = (f"x = tf.constant({x})", "with tf.GradientTape() as tape:", "    tape.watch(x)")
    return "\n".join((*lines, textwrap.indent(body, "    "), "tape.gradient(y, x)"))


GRADIENT_PENALTY_NORM_AT_ZERO = Hazard(
    code="NG306",
    name="gradient-penalty-norm-at-zero",
    summary="A penalty on a gradient's norm has a NaN gradient where that norm is 0.",
    cause="gradient_penalty_norm",
    phase="backward",
    ops=("Sqrt", "EuclideanNorm"),
    calls=("tf.norm", "tf.sqrt", "keras.ops.norm", "keras.ops.sqrt"),
    needs="a norm above 0",
    cure=(
        "Take ng.ops.norm(g, axis=1), whose gradient at 0 is 0 and can be differentiated again, or penalise the "
        "squared norm, which needs no root."
    ),
    why=(
        "WGAN-GP and its kin differentiate a norm of gradients once more. A critic with dead relus, zero weights or a "
        "padded input has a gradient of exactly 0 there, and the norm's slope at 0 is 0 / 0. The loss itself is "
        "finite, and so are all weights until this step."
    ),
    bad="""
        w, x = tf.zeros([2, 1]), tf.ones([4, 2])
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(x)
                score = x @ w
            slope = tf.norm(inner.gradient(score, x), axis=1)
            penalty = tf.reduce_mean((slope - 1.0) ** 2)
        outer.gradient(penalty, w)
    """,
    good="""
        w, x = tf.zeros([2, 1]), tf.ones([4, 2])
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(x)
                score = x @ w
            g = inner.gradient(score, x)
            slope = ng.ops.norm(g, axis=1)
            penalty = tf.reduce_mean((slope - 1.0) ** 2)
        outer.gradient(penalty, w)
    """,
)

WHERE_GRADIENT_TRAP = Hazard(
    code="NG303",
    name="where-gradient-trap",
    summary="tf.where hides a non-finite value, and its gradient is NaN all the same.",
    cause="where_gradient_trap",
    phase="backward",
    ops=("SelectV2", "Select"),
    calls=("tf.where", "keras.ops.where"),
    needs="an input that is safe for both branches",
    cure=(
        "Write where twice: first a safe input, safe = tf.where(x > 0, x, 1.0), then the choice, tf.where(x > 0, "
        "tf.math.log(safe), 0.0). ng.ops.select(x > 0, tf.math.log, x) does both."
    ),
    why=(
        "Both branches are always computed, forward and backward. The branch that is not chosen gets a gradient of 0, "
        "and 0 times the infinite slope of log, sqrt, a division or exp is NaN. The value is right in every test; "
        "only the gradient shows it. A where around the loss has the same hole."
    ),
    bad=_gradient("y = tf.where(x > 0, tf.math.log(x), 0.0)"),
    good=_gradient("y = ng.ops.select(x > 0, tf.math.log, x)"),
)

SQRT_GRADIENT_AT_ZERO = Hazard(
    code="NG301",
    name="sqrt-gradient-at-zero",
    summary="The slope of sqrt at 0 is infinite, and that of a norm is NaN.",
    cause="sqrt_norm_grad_at_zero",
    phase="backward",
    ops=("Sqrt", "Rsqrt", "EuclideanNorm"),
    calls=(
        "tf.sqrt",
        "tf.math.sqrt",
        "tf.math.rsqrt",
        "tf.norm",
        "tf.math.reduce_std",
        "tf.math.reduce_euclidean_norm",
        "keras.ops.sqrt",
        "keras.ops.rsqrt",
        "keras.ops.norm",
        "keras.ops.std",
    ),
    strikes=(
        *near_zero(0, ops=("Sqrt", "Rsqrt")),
        Region(operand=0, within=_rsqrt_slope_overflows, ops=("Rsqrt",), is_certain=False),
        # It takes a whole slice of zeros.
        Region(operand=0, within=exactly(0), ops=("EuclideanNorm",), is_certain=False),
    ),
    needs="x > 0",
    cure=(
        "Take ng.ops.sqrt(x), ng.ops.norm(x) or ng.ops.std(x), whose gradient at 0 is 0, or add an epsilon under the "
        "root, tf.sqrt(tf.reduce_sum(x ** 2) + 1e-12); where only order matters, use the square itself."
    ),
    replacements={
        "Sqrt": "ng.ops.sqrt({0})",
        "Rsqrt": "ng.ops.rsqrt({0})",
    },
    why=(
        "A distance of a point to itself, the norm of a padded row, the deviation of a constant, a silent STFT frame: "
        "the value 0 is right, its slope is not finite. tf.norm and tf.math.reduce_std are built on sqrt and give "
        "NaN, since they multiply the infinite slope by a slope of 0. Where nothing depends on the entry, its "
        "gradient from above is 0 and no harm is done, so it may first bite when a loss term is added. rsqrt "
        "overflows earlier, below 1.3e-26 in float32."
    ),
    bad=_gradient("y = tf.norm(x)", "[0.0, 0.0]"),
    good=_gradient("y = ng.ops.norm(x)", "[0.0, 0.0]"),
)

POW_GRADIENT_AT_ZERO = Hazard(
    code="NG302",
    name="pow-gradient-at-zero",
    summary="The slope of x ** y at 0 is infinite for y < 1, and NaN for y = 0.",
    cause="pow_grad_at_zero",
    phase="backward",
    ops=("Pow",),
    calls=("tf.pow", "tf.math.pow", "keras.ops.power"),
    strikes=(
        *(
            Region(
                zero.operand, zero.within, also=(Region(1, Interval(0, 1, high_open=True)),), is_certain=zero.is_certain
            )
            for zero in near_zero(0)
        ),
        # A negative power is a division.
        Region(0, _inverse_square_overflows, also=(Region(operand=1, within=below(0)),), is_certain=False),
    ),
    needs="x > 0, or an exponent of at least 1",
    cure="Take ng.ops.pow(x, y), or bound the base from below by a floor, tf.pow(tf.maximum(x, 1.1e-19), y).",
    replacements={"Pow": "ng.ops.pow({0}, {1})"},
    why=(
        "The slope is y * x ** (y - 1), a division by zero for y < 1. It meets focal losses with gamma < 1, gamma "
        "correction of black pixels, the exponents of SSIM, generalised means. The value is 0 and looks fine. With "
        "gamma between 1 and 2 the same happens in a second derivative."
    ),
    bad=_gradient("y = tf.pow(x, 0.45)"),
    good=_gradient("y = ng.ops.pow(x, 0.45)"),
)

INVERSE_TRIG_GRADIENT_AT_END = Hazard(
    code="NG304",
    name="inverse-trig-gradient-at-end",
    summary="acos, asin and atanh have infinite slopes at -1 and 1, acosh at 1.",
    cause="acos_grad_at_one",
    phase="backward",
    ops=("Acos", "Asin", "Atanh", "Acosh"),
    calls=(
        "tf.acos",
        "tf.asin",
        "tf.atanh",
        "tf.acosh",
        "keras.ops.arccos",
        "keras.ops.arcsin",
        "keras.ops.arctanh",
        "keras.ops.arccosh",
    ),
    strikes=(
        Region(operand=0, within=exactly(1)),
        Region(operand=0, within=exactly(-1), ops=("Acos", "Asin", "Atanh")),
    ),
    needs="-1 < x < 1 (x > 1 for acosh)",
    cure=(
        "Take ng.ops.acos(x) or its kin, whose slope at the ends is bounded, clip x to a little inside them, "
        "tf.clip_by_value(x, -1 + 1e-6, 1 - 1e-6) in float32, or measure an angle by ng.ops.atan2(sine, cosine)."
    ),
    replacements={
        "Acos": "ng.ops.acos({0})",
        "Asin": "ng.ops.asin({0})",
        "Atanh": "ng.ops.atanh({0})",
        "Acosh": "ng.ops.acosh({0})",
    },
    why=(
        "The angle between equal vectors is acos(1) = 0, and its slope is -1 / sqrt(1 - x * x). Clipping to [-1, 1] "
        "keeps the value in the domain and the end inside, which is exactly where the slope is infinite. A margin "
        "smaller than the dtype's eps is rounded away."
    ),
    bad=_gradient("y = tf.acos(tf.clip_by_value(x, -1.0, 1.0))", "[0.5, 1.0]"),
    good=_gradient("y = ng.ops.acos(x)", "[0.5, 1.0]"),
)

ATAN2_GRADIENT_AT_ORIGIN = Hazard(
    code="NG305",
    name="atan2-gradient-at-origin",
    summary="atan2(0, 0) is 0 and its slope is NaN.",
    cause="acos_grad_at_one",
    phase="backward",
    ops=("Atan2",),
    calls=("tf.atan2", "tf.math.atan2", "tf.math.angle", "keras.ops.arctan2"),
    strikes=(
        Region(operand=0, within=exactly(0), also=(Region(operand=1, within=exactly(0)),)),
        Region(
            operand=0, within=_square_vanishes, also=(Region(operand=1, within=_square_vanishes),), is_certain=False
        ),
    ),
    needs="a point other than (0, 0)",
    cure=(
        "Take ng.ops.atan2(y, x), whose gradient at the origin is 0, or move the origin by a safe input: tf.atan2(y, "
        "tf.where((x == 0) & (y == 0), tf.ones_like(x), x))."
    ),
    replacements={"Atan2": "ng.ops.atan2({0}, {1})"},
    why=(
        "The slope is (x, -y) / (x * x + y * y). The angle of a zero vector has no meaning, and padded keypoints, "
        "silent spectrum bins and freshly initialised outputs are such vectors. Components below 1e-19 are as bad as "
        "0, for their squares vanish in float32. A tf.where around the angle mends the value, not the slope."
    ),
    bad=_gradient("y = tf.atan2(x, tf.zeros_like(x))"),
    good=_gradient("y = ng.ops.atan2(x, tf.zeros_like(x))"),
)

LOG_GRADIENT_AT_ZERO = Hazard(
    code="NG307",
    name="log-gradient-at-zero",
    summary="The slope 1 / x of log is infinite at 0 and at subnormal numbers.",
    cause="log_of_zero",
    phase="backward",
    ops=("Log", "Log1p", "Xlogy"),
    calls=("tf.math.log", "tf.math.log1p", "tf.math.xlogy", "keras.ops.log", "keras.ops.log1p"),
    strikes=(
        *near_zero(0, ops=("Log",)),
        Region(operand=0, within=exactly(-1), ops=("Log1p",)),
        # xlogy(0, 0) is 0 in value and gradient.
        Region(operand=1, within=subnormal, ops=("Xlogy",), is_certain=False),
    ),
    needs="x > 0",
    cure=(
        "Take ng.ops.log(x), whose gradient below the floor is 0, as that of tf.math.log(tf.maximum(x, 1.1e-19)) is, "
        "or write the loss from logits."
    ),
    replacements={
        "Log": "ng.ops.log({0})",
        "Log1p": "ng.ops.log1p({0})",
        "Xlogy": "ng.ops.xlogy({0}, {1})",
    },
    why=(
        "The -inf of log(0) can be hidden in the forward pass, by a tf.where, a maximum over it or a division, while "
        "the gradient still asks for 1 / 0. And 1 / x is infinite for numbers below 1.2e-38, whose logarithm is "
        "finite. A floor that is too small is no cure: the slope at 1.2e-38 is 8.5e37, and Adam squares it."
    ),
    bad=_gradient("y = tf.maximum(tf.math.log(x), -10.0) + tf.math.log(x) * 0.0"),
    good=_gradient("y = tf.maximum(ng.ops.log(x), -10.0)"),
)

DIVISION_GRADIENT_AT_ZERO = Hazard(
    code="NG308",
    name="division-gradient-at-zero",
    summary="The slope of x / y is x / y ** 2, and y ** 2 vanishes long before y does.",
    cause="div_by_zero",
    phase="backward",
    ops=("RealDiv", "Reciprocal", "DivNoNan", "Xdivy", "Div", "Inv"),
    calls=("tf.divide", "tf.math.divide", "tf.math.reciprocal", "tf.math.divide_no_nan", "keras.ops.divide"),
    strikes=(
        Region(operand=1, within=exactly(0), ops=("RealDiv", "Div")),
        Region(operand=0, within=exactly(0), ops=("Reciprocal", "Inv")),
        Region(operand=1, within=_inverse_square_overflows, ops=("RealDiv", "Div"), is_certain=False),
        Region(operand=0, within=_inverse_square_overflows, ops=("Reciprocal", "Inv"), is_certain=False),
        # Exactly 0 is safe in these two.
        Region(operand=1, within=_inverse_square_overflows, ops=("DivNoNan", "Xdivy"), is_certain=False),
    ),
    needs="a denominator above 5.4e-20 in float32",
    cure=(
        "Take ng.ops.divide(x, y), whose gradients are bounded, or bound the denominator from below, x / "
        "tf.maximum(y, 1e-7), where it cannot be negative; an epsilon of 1e-20 protects the value only."
    ),
    replacements={
        "RealDiv": "ng.ops.divide({0}, {1})",
        "DivNoNan": "ng.ops.divide({0}, {1})",
        "Reciprocal": "ng.ops.reciprocal({0})",
    },
    why=(
        "Where a tf.where or a mask hides x / 0, the gradient still divides by 0. With a denominator of 1e-20 the "
        "value, 1e20, is finite and the slope, 1e40, is not. tf.math.divide_no_nan is safe at exactly 0, in value and "
        "gradient, and not near it."
    ),
    bad=_gradient("y = tf.where(x > 0, 1.0 / x, 0.0)"),
    good=_gradient("y = ng.ops.divide(1.0, x)"),
)

GRADIENT_OVERFLOW = Hazard(
    code="NG309",
    name="gradient-overflow",
    summary="Slopes multiply to infinity, or an infinity meets a slope of 0.",
    cause="exp_overflow",
    phase="backward",
    ops=(ANY_OP,),
    calls=("tf.exp", "keras.ops.exp"),
    needs="slopes whose product stays below 3.4e38 (float32)",
    cure=(
        "Use the function whose gradient is bounded (tf.sigmoid, tf.math.softplus, tf.nn.softmax) instead of writing "
        "it with exp, or bound the exponent; for slopes that grow through many layers normalise and lower the rate."
    ),
    why=(
        "1 / (1 + exp(-x)) is right at x = -100: exp is infinite and the quotient 0. Backwards the slope of the "
        "quotient, 0, meets that of exp, infinity, and gives NaN. Clipping gradients afterwards cannot mend it. Under "
        "loss scaling a gradient that overflows only because of the scale is ordinary: the step is skipped and the "
        "scale halved."
    ),
    bad=_gradient("y = 1.0 / (1.0 + tf.exp(-x))", "[0.0, -100.0]"),
    good=_gradient("y = tf.sigmoid(x)", "[0.0, -100.0]"),
)

HAZARDS = (
    GRADIENT_PENALTY_NORM_AT_ZERO,
    WHERE_GRADIENT_TRAP,
    SQRT_GRADIENT_AT_ZERO,
    POW_GRADIENT_AT_ZERO,
    INVERSE_TRIG_GRADIENT_AT_END,
    ATAN2_GRADIENT_AT_ORIGIN,
    LOG_GRADIENT_AT_ZERO,
    DIVISION_GRADIENT_AT_ZERO,
    GRADIENT_OVERFLOW,
)
"""The most specific first, where several share an op."""
