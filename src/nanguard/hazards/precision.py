"""What half-precision formats cannot hold."""

from __future__ import annotations

from nanguard.hazards._hazard import ANY_OP, Hazard

EPSILON_ABSORBED_BY_DTYPE = Hazard(
    code="NG402",
    name="epsilon-absorbed-by-dtype",
    summary="An epsilon is rounded away, and what it protects is exactly 0 or 1 again.",
    cause="fp16_range",
    phase="forward",
    ops=("Log", "Log1p", "RealDiv", "Rsqrt", "Reciprocal", "Xdivy"),
    calls=("tf.math.log", "tf.divide", "tf.math.rsqrt", "keras.ops.log", "keras.ops.divide", "keras.ops.rsqrt"),
    needs="an epsilon that the dtype can hold beside its neighbour",
    cure=(
        "Compute this part in float32, tf.cast(x, tf.float32), or take the epsilon from the dtype: at least 6.1e-05 "
        "next to 0 in float16, and next to 1 at least 0.00098 in float16, 0.0078 in bfloat16, 1.2e-07 in float32."
    ),
    why=(
        "1e-8 is 0 in float16. bfloat16 has float32's range but three digits, so 1 - 1e-7 is 1 there, and in float16 "
        "too; in float32 the same happens to 1 - 1e-8. The code reads as protected, and was, until mixed precision "
        "was switched on. Keras's own epsilon of 1e-7 has the same fate in a clip to [eps, 1 - eps]."
    ),
    bad="""
        p = tf.constant([0.5, 0.0], tf.float16)
        tf.math.log(p + 1e-8)
    """,
    good="""
        p = tf.constant([0.5, 0.0], tf.float16)
        tf.math.log(tf.cast(p, tf.float32) + 1e-8)
    """,
)

FLOAT16_RANGE = Hazard(
    code="NG401",
    name="float16-range",
    summary="The result is finite in float32 but beyond 65504, the largest float16.",
    cause="fp16_range",
    phase="forward",
    other_phases=("backward",),
    ops=(ANY_OP,),
    calls=("tf.cast", "keras.ops.cast"),
    dtypes=("float16", "bfloat16"),
    needs="results below 65504 in float16",
    cure=(
        "Keep this op in float32: tf.cast(x, tf.float32) before it, or dtype='float32' for the layer; write a mask as "
        "x.dtype.min instead of -1e9; or train in mixed_bfloat16, which has float32's range."
    ),
    why=(
        "Sums, squares, norms and exp leave float16 early: a square from 256 on, exp from 11.1 on, a sum of 70000 "
        "ones. A mask of -1e9 is -inf there, and a fully masked softmax NaN. Loss scaling protects the gradients and "
        "not the forward pass; a gradient that overflows only because of the scale is skipped and no fault."
    ),
    bad="""
        scores = tf.cast([[-1e9, -1e9]], tf.float16)
        tf.nn.softmax(scores)
    """,
    good="""
        scores = tf.constant([[-1.0, -1.0]], tf.float16) * tf.float16.max
        tf.nn.softmax(scores)
    """,
)

HAZARDS = (EPSILON_ABSORBED_BY_DTYPE, FLOAT16_RANGE)
"""The most specific first, where several share an op."""
