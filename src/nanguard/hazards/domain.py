"""Numbers outside the domain of a function: logarithms, divisions, roots, powers, inverse functions."""

from __future__ import annotations

from nanguard.hazards._hazard import Hazard, Region, near_zero, subnormal
from nanguard.intervals import FloatFormat, Interval, at_least, at_most, below, exactly, outside

# xlogy, xlog1py and xdivy are 0 wherever their first operand is.
_NONZERO_FIRST = tuple(Region(operand=0, within=part) for part in outside(0, 0))


def _rounds_to_one(format: FloatFormat) -> Interval:
    """The numbers below 1 for which `(x + 1) / 2`, which TensorFlow's erfinv computes, may be rounded to 1."""
    return Interval(1 - format.eps, 1, low_open=True)


LOG_OF_SATURATED_PROBABILITY = Hazard(
    code="NG103",
    name="log-of-saturated-probability",
    summary="A softmax or sigmoid rounds to exactly 0 or 1, and its logarithm is -inf.",
    cause="softmax_then_log",
    phase="forward",
    ops=("Log", "Log1p", "Xlogy"),
    calls=("tf.math.log", "tf.math.log1p", "tf.math.xlogy", "keras.ops.log", "keras.ops.log1p"),
    needs="logits instead of probabilities",
    cure=(
        "Take the logarithm from the logits: tf.nn.log_softmax(logits) or tf.math.log_sigmoid(logits), or drop the "
        "last activation and give the loss from_logits=True."
    ),
    why=(
        "In float32 a softmax is exactly 0 once a logit is 87 below the largest, and a sigmoid exactly 1 from 17 on; "
        "in float16 it takes 18 and 8. Clipping the probability keeps the loss finite, but its gradient is 0 out "
        "there, so that a confident mistake is never unlearnt, and in float16 and bfloat16 the bound 1 - 1e-7 is "
        "itself 1. Keras losses find the logits behind a probability by themselves, but not under mixed precision, "
        "where a cast hides them."
    ),
    bad="tf.math.log(tf.nn.softmax([[0.0, 200.0]]))",
    good="tf.nn.log_softmax([[0.0, 200.0]])",
)

LOG_OF_NEGATIVE = Hazard(
    code="NG102",
    name="log-of-negative",
    summary="log(x) is NaN for a negative x.",
    cause="domain_error",
    phase="forward",
    ops=("Log", "Xlogy"),
    calls=("tf.math.log", "tf.math.xlogy", "keras.ops.log", "keras.losses.poisson", "keras.losses.Poisson"),
    strikes=(
        Region(operand=0, within=below(0), ops=("Log",)),
        *(Region(operand=1, within=below(0), also=(part,), ops=("Xlogy",)) for part in _NONZERO_FIRST),
    ),
    needs="x >= 0",
    cure=(
        "Make x positive where it is made, for example with tf.math.softplus as the last activation instead of a "
        "linear one or with tf.math.log1p for counts, rather than clamping a number that means something else."
    ),
    replacements={
        "Log": "ng.ops.log({0})",
        "Xlogy": "ng.ops.xlogy({0}, {1})",
    },
    why=(
        "A negative argument is rarely rounding: a linear output went into a Poisson loss, a difference came out "
        "negative, a column holds negative prices or -999 for missing. Adding an epsilon cures nothing below it. "
        "Clamping makes it finite and gives the clamped entries no gradient, so mend where the sign comes from."
    ),
    bad="keras.losses.poisson(np.array([[1.0]]), np.array([[-0.5]]))",
    good="keras.losses.poisson(np.array([[1.0]]), tf.math.softplus([[-0.5]]))",
)

LOG_OF_NONPOSITIVE = Hazard(
    code="NG101",
    name="log-of-nonpositive",
    summary="log(x) is -inf at 0 and NaN below it.",
    cause="log_of_zero",
    phase="forward",
    ops=("Log", "Xlogy"),
    calls=("tf.math.log", "tf.math.xlogy", "keras.ops.log", "keras.ops.log2", "keras.ops.log10"),
    strikes=(
        Region(operand=0, within=at_most(0), ops=("Log",)),
        Region(operand=0, within=subnormal, ops=("Log",), is_certain=False),
        *(Region(operand=1, within=at_most(0), also=(part,), ops=("Xlogy",)) for part in _NONZERO_FIRST),
        Region(operand=1, within=subnormal, ops=("Xlogy",), is_certain=False),
    ),
    needs="x > 0",
    cure=(
        "Take ng.ops.log(x), which stops at a floor, as tf.math.log(tf.maximum(x, 1.1e-19)) does, or for a probability "
        "take the logarithm from the logits (from_logits=True)."
    ),
    replacements={
        "Log": "ng.ops.log({0})",
        "Xlogy": "ng.ops.xlogy({0}, {1})",
    },
    why=(
        "A 0 comes from a relu, a normalised count, a saturated probability, an empty class. The floor is the square "
        "root of the dtype's smallest normal number: at the smallest itself the slope is 8.5e37, whose square makes "
        "Adam's second moment infinite and the weight NaN a step later. log(x + 1e-8) works in float32, not in "
        "float16, where 1e-8 is 0. In p * log(p) the limit at 0 is 0: tf.math.multiply_no_nan(log(p), p) or "
        "tf.math.xlogy(p, p) gives it."
    ),
    bad="tf.math.log([0.2, 0.0])",
    good="ng.ops.log([0.2, 0.0])",
    references=("Higham, Accuracy and Stability of Numerical Algorithms, SIAM 2002, section 2.1",),
)

LOG1P_AT_OR_BELOW_MINUS_ONE = Hazard(
    code="NG104",
    name="log1p-at-or-below-minus-one",
    summary="log1p(x) is -inf at -1 and NaN below it.",
    cause="log_of_zero",
    phase="forward",
    ops=("Log1p", "Xlog1py"),
    calls=("tf.math.log1p", "tf.math.xlog1py", "keras.ops.log1p"),
    strikes=(
        Region(operand=0, within=at_most(-1), ops=("Log1p",)),
        *(Region(operand=1, within=at_most(-1), also=(part,), ops=("Xlog1py",)) for part in _NONZERO_FIRST),
    ),
    needs="x > -1",
    cure=(
        "Take ng.ops.log1p(x), which stops at the number next above -1, or for log1p(-p) of a probability "
        "tf.math.log_sigmoid(-logits)."
    ),
    replacements={
        "Log1p": "ng.ops.log1p({0})",
        "Xlog1py": "tf.math.xlog1py({0}, tf.maximum({1}, -1.0 + {eps}))",
    },
    why=(
        "log1p(-p) is the other half of a cross-entropy, and p rounds to exactly 1 long before the logits are "
        "extreme: from 17 on in float32, from 8 on in float16. An epsilon next to 1 must be as large as the dtype's "
        "own (1.2e-07 in float32); a smaller one is rounded away."
    ),
    bad="tf.math.log1p(-tf.sigmoid([0.0, 20.0]))",
    good="tf.math.log_sigmoid(-tf.constant([0.0, 20.0]))",
)

DIVISION_BY_ZERO = Hazard(
    code="NG105",
    name="division-by-zero",
    summary="x / 0 is infinite and 0 / 0 is NaN.",
    cause="div_by_zero",
    phase="forward",
    ops=("RealDiv", "Reciprocal", "Xdivy", "Div", "Inv"),
    calls=("tf.divide", "tf.math.divide", "tf.math.reciprocal", "tf.math.xdivy", "keras.ops.divide"),
    strikes=(
        *near_zero(1, ops=("RealDiv", "Div")),
        *near_zero(0, ops=("Reciprocal", "Inv")),
        *(Region(operand=1, within=exactly(0), also=(part,), ops=("Xdivy",)) for part in _NONZERO_FIRST),
        Region(operand=1, within=subnormal, ops=("Xdivy",), is_certain=False),
    ),
    needs="a denominator other than 0",
    cure=(
        "Take ng.ops.divide(x, y), which is 0 where y is, or is too small to divide by, in value and gradient; "
        "tf.math.divide_no_nan(x, y) does so at exactly 0. A masked mean is ng.ops.mean(x, mask=mask)."
    ),
    replacements={
        "RealDiv": "ng.ops.divide({0}, {1})",
        "Div": "ng.ops.divide({0}, {1})",
        "Xdivy": "ng.ops.divide({0}, {1})",
        "Reciprocal": "ng.ops.reciprocal({0})",
        "Inv": "ng.ops.reciprocal({0})",
    },
    why=(
        "Denominators that count or measure something are 0 in the rare batch: a masked mean with nothing left, Dice "
        "or IoU of an empty class, the norm of a zero vector, the deviation of one sample. Numbers below the smallest "
        "normal one count as 0 too, since the kernels flush them. A tf.where around the quotient mends the value but "
        "not the gradient."
    ),
    bad="tf.reduce_sum([1.0, 2.0]) / tf.reduce_sum([0.0, 0.0])",
    good="ng.ops.divide(tf.reduce_sum([1.0, 2.0]), tf.reduce_sum([0.0, 0.0]))",
)

SQRT_OF_NEGATIVE = Hazard(
    code="NG106",
    name="sqrt-of-negative",
    summary="sqrt(x) and rsqrt(x) are NaN for a negative x.",
    cause="domain_error",
    phase="forward",
    ops=("Sqrt", "Rsqrt"),
    calls=("tf.sqrt", "tf.math.sqrt", "tf.math.rsqrt", "keras.ops.sqrt", "keras.ops.rsqrt"),
    strikes=(Region(operand=0, within=below(0)),),
    needs="x >= 0",
    cure=(
        "Compute what cannot be negative in a form that cannot round below 0 (tf.math.reduce_variance, "
        "tf.math.squared_difference), or take ng.ops.sqrt(x), which is 0 there."
    ),
    replacements={
        "Sqrt": "ng.ops.sqrt({0})",
        "Rsqrt": "ng.ops.rsqrt({0})",
    },
    why=(
        "Mean of squares minus square of the mean, or |a|^2 + |b|^2 - 2ab for a distance, cancels: two large numbers "
        "agree in all their digits and the difference comes out slightly negative. It is rare, depends on the batch, "
        "and looks random. A floor of 0 mends the value only: the gradient of sqrt at 0 is infinite."
    ),
    bad="""
        x = tf.constant([1000.1] * 5)
        tf.sqrt(tf.reduce_mean(x * x) - tf.reduce_mean(x) ** 2)
    """,
    good="""
        x = tf.constant([1000.1] * 5)
        ng.ops.sqrt(tf.reduce_mean(x * x) - tf.reduce_mean(x) ** 2)
    """,
)

RSQRT_OF_ZERO = Hazard(
    code="NG107",
    name="rsqrt-of-zero",
    summary="rsqrt(0) is infinite.",
    cause="div_by_zero",
    phase="forward",
    ops=("Rsqrt",),
    calls=("tf.math.rsqrt", "keras.ops.rsqrt"),
    strikes=near_zero(0),
    needs="x > 0",
    cure=(
        "Add an epsilon of the size that layers use, tf.math.rsqrt(variance + 1e-6), or take ng.ops.rsqrt(x), which "
        "stays finite at 0 without one."
    ),
    replacements={"Rsqrt": "ng.ops.rsqrt({0})"},
    why=(
        "A variance is exactly 0 for a constant channel, a blank image, or one sample. The gradient grows as x ** "
        "-1.5, so a tiny epsilon is not enough: 1e-30 keeps the value finite and makes the gradient overflow. An "
        "epsilon below 3e-8 is 0 in float16."
    ),
    bad="""
        x = tf.constant([3.0, 3.0])
        (x - 3.0) * tf.math.rsqrt(tf.math.reduce_variance(x))
    """,
    good="""
        x = tf.constant([3.0, 3.0])
        (x - 3.0) * ng.ops.rsqrt(tf.math.reduce_variance(x))
    """,
)

POW_OF_NEGATIVE_BASE = Hazard(
    code="NG108",
    name="pow-of-negative-base",
    summary="x ** y is NaN for a negative x and a y that is no whole number.",
    cause="domain_error",
    phase="forward",
    ops=("Pow",),
    calls=("tf.pow", "tf.math.pow", "keras.ops.power"),
    strikes=(Region(operand=0, within=below(0), is_certain=False),),
    needs="x >= 0, or a whole exponent",
    cure=(
        "Say which power is meant: ng.ops.pow(x, y), which counts them as 0, if negatives are noise, tf.sign(x) * "
        "tf.pow(tf.abs(x) + 1e-12, y) if they count."
    ),
    replacements={"Pow": "ng.ops.pow({0}, {1})"},
    why=(
        "Gamma correction of an image that was centred, focal weights of a loss that is negative, a learning rate "
        "that decays as (1 - step / total) ** 0.9 beyond its total. A whole exponent, which 2.0 is, does no harm, so "
        "it may work for years until the exponent becomes a setting. A base of exactly 0 is the next trap: its "
        "gradient is infinite for exponents below 1."
    ),
    bad="tf.pow([-0.5, 0.5], 0.45)",
    good="ng.ops.pow([-0.5, 0.5], 0.45)",
)

INVERSE_FUNCTION_OUTSIDE_DOMAIN = Hazard(
    code="NG109",
    name="inverse-function-outside-domain",
    summary="acos, asin, atanh, acosh, erfinv, ndtri are not finite outside their domain.",
    cause="domain_error",
    phase="forward",
    ops=("Acos", "Asin", "Atanh", "Acosh", "Erfinv", "Ndtri"),
    calls=(
        "tf.acos",
        "tf.asin",
        "tf.atanh",
        "tf.acosh",
        "tf.math.erfinv",
        "tf.math.ndtri",
        "keras.ops.arccos",
        "keras.ops.arcsin",
        "keras.ops.arctanh",
        "keras.ops.arccosh",
        "keras.ops.erfinv",
    ),
    strikes=(
        *(Region(operand=0, within=part, ops=("Acos", "Asin")) for part in outside(-1, 1)),
        *(Region(operand=0, within=part, ops=("Atanh", "Erfinv")) for part in (at_most(-1), at_least(1))),
        Region(operand=0, within=below(1), ops=("Acosh",)),
        *(Region(operand=0, within=part, ops=("Ndtri",)) for part in (at_most(0), at_least(1))),
        Region(operand=0, within=_rounds_to_one, ops=("Erfinv",), is_certain=False),
        Region(operand=0, within=subnormal, ops=("Ndtri",), is_certain=False),
    ),
    needs=(
        "-1 <= x <= 1 for acos and asin, the open interval for atanh and erfinv, 0 < p < 1 for ndtri, x >= 1 for acosh"
    ),
    cure=(
        "Take the op of ng.ops (acos, asin, atanh, acosh, erfinv, ndtri), which stops at the end of the domain, clip "
        "x a little inside, tf.clip_by_value(x, -1 + 1e-6, 1 - 1e-6), or measure an angle by tf.atan2(sine, cosine)."
    ),
    replacements={
        "Acos": "ng.ops.acos({0})",
        "Asin": "ng.ops.asin({0})",
        "Atanh": "ng.ops.atanh({0})",
        "Acosh": "ng.ops.acosh({0})",
        "Erfinv": "tf.math.erfinv(tf.clip_by_value({0}, -1.0 + {eps}, 1.0 - {eps}))",
        "Ndtri": "tf.math.ndtri(tf.clip_by_value({0}, {eps}, 1.0 - {eps}))",
    },
    why=(
        "The cosine of a vector with itself rounds to 1.0000001, and acos of that is NaN. Clipping to [-1, 1] mends "
        "the value only: at the ends the gradient is infinite, so clip a little inside, by no less than the dtype's "
        "eps, or the bound rounds back to 1."
    ),
    bad="tf.acos([0.5, 1.0000001])",
    good="ng.ops.acos([0.5, 1.0000001])",
)

POW_OF_ZERO_TO_NEGATIVE_POWER = Hazard(
    code="NG110",
    name="pow-of-zero-to-negative-power",
    summary="0 ** y is infinite for a negative y.",
    cause="div_by_zero",
    phase="forward",
    ops=("Pow",),
    calls=("tf.pow", "tf.math.pow", "keras.ops.power"),
    strikes=tuple(
        Region(zero.operand, zero.within, also=(Region(operand=1, within=below(0)),), is_certain=zero.is_certain)
        for zero in near_zero(0)
    ),
    needs="x > 0 where the exponent is negative",
    cure=(
        "Take ng.ops.pow(x, y), or bound the base from below by an epsilon that its power can bear, "
        "tf.pow(tf.maximum(x, 1e-6), y)."
    ),
    replacements={"Pow": "ng.ops.pow({0}, {1})"},
    why=(
        "It is a division by zero in other clothes: degree ** -0.5 of a graph node without edges, inverse-distance "
        "weights of a point with itself, 1 / variance. The epsilon is raised to the same power, and the gradient to "
        "one less: 1e-12 to the power -3 is 1e36, and its gradient overflows."
    ),
    bad="tf.pow([0.0, 4.0], -0.5)",
    good="ng.ops.pow([0.0, 4.0], -0.5)",
)

GAMMA_OF_NONPOSITIVE = Hazard(
    code="NG111",
    name="gamma-of-nonpositive",
    summary="lgamma and digamma are not finite at 0 and the negative whole numbers.",
    cause="domain_error",
    phase="forward",
    ops=("Lgamma", "Digamma"),
    calls=("tf.math.lgamma", "tf.math.digamma"),
    strikes=(
        Region(operand=0, within=exactly(0)),
        Region(operand=0, within=below(0), is_certain=False),
        Region(operand=0, within=subnormal, ops=("Digamma",), is_certain=False),
    ),
    needs="x > 0",
    cure="Make the parameter positive where it is made, tf.math.softplus(raw) + 1e-6.",
    replacements={
        "Lgamma": "tf.math.lgamma(tf.maximum({0}, {floor}))",
        "Digamma": "tf.math.digamma(tf.maximum({0}, {floor}))",
    },
    why=(
        "The concentration of a Gamma, Beta, Dirichlet or negative-binomial likelihood must be positive, and relu or "
        "a rounded softplus gives exactly 0. Between negative whole numbers lgamma is finite and means nothing, so a "
        "parameter that drifted below 0 may go unnoticed until it meets one."
    ),
    bad="tf.math.lgamma(tf.nn.relu([2.0, -3.0]))",
    good="tf.math.lgamma(tf.math.softplus([2.0, -3.0]) + 1e-6)",
)

MODULO_BY_ZERO = Hazard(
    code="NG112",
    name="modulo-by-zero",
    summary="A float modulo by 0 is NaN, and a floor division by 0 infinite or NaN.",
    cause="div_by_zero",
    phase="forward",
    ops=("FloorMod", "FloorDiv", "Mod", "TruncateMod"),
    calls=("tf.math.floormod", "tf.math.mod", "tf.math.floordiv", "tf.truncatemod", "keras.ops.mod"),
    strikes=near_zero(1),
    needs="a divisor other than 0",
    cure="Replace a divisor of 0 by 1 before the division, tf.where(y == 0, tf.ones_like(y), y).",
    replacements={
        "FloorMod": "tf.math.floormod({0}, tf.where(tf.equal({1}, 0), tf.ones_like({1}), {1}))",
        "Mod": "tf.math.floormod({0}, tf.where(tf.equal({1}, 0), tf.ones_like({1}), {1}))",
        "FloorDiv": "tf.math.floordiv({0}, tf.where(tf.equal({1}, 0), tf.ones_like({1}), {1}))",
        "TruncateMod": "tf.truncatemod({0}, tf.where(tf.equal({1}, 0), tf.ones_like({1}), {1}))",
    },
    why=(
        "A period, stride or bin width is learnt or read from the data and is 0 in one row. On the CPU the same "
        "operation on integers is an error that stops the script; on floats it goes on silently. There is no tf.math "
        "version that leaves the zero out by itself."
    ),
    bad="tf.math.floormod([5.0, 7.0], [0.0, 2.0])",
    good="""
        y = tf.constant([0.0, 2.0])
        tf.math.floormod([5.0, 7.0], tf.where(y == 0, tf.ones_like(y), y))
    """,
)

HAZARDS = (
    LOG_OF_SATURATED_PROBABILITY,
    LOG_OF_NEGATIVE,
    LOG_OF_NONPOSITIVE,
    LOG1P_AT_OR_BELOW_MINUS_ONE,
    SQRT_OF_NEGATIVE,
    RSQRT_OF_ZERO,
    POW_OF_ZERO_TO_NEGATIVE_POWER,
    POW_OF_NEGATIVE_BASE,
    DIVISION_BY_ZERO,
    MODULO_BY_ZERO,
    INVERSE_FUNCTION_OUTSIDE_DOMAIN,
    GAMMA_OF_NONPOSITIVE,
)
"""The most specific first, where several share an op."""
