"""Ops over whole axes, sequences and matrices that have no answer for an empty, masked or singular input."""

from __future__ import annotations

from nanguard.hazards._hazard import Hazard

EMPTY_REDUCTION = Hazard(
    code="NG501",
    name="empty-reduction",
    summary="The mean of no elements is NaN, their maximum -inf.",
    cause="empty_reduction",
    phase="forward",
    ops=("Mean", "Max", "Min", "EuclideanNorm"),
    calls=(
        "tf.reduce_mean",
        "tf.math.reduce_mean",
        "tf.reduce_max",
        "tf.reduce_min",
        "tf.math.reduce_std",
        "tf.math.reduce_variance",
        "keras.ops.mean",
        "keras.ops.max",
        "keras.ops.min",
        "keras.ops.std",
        "keras.ops.var",
    ),
    needs="at least one element",
    cure=(
        "Take ng.ops.mean(x, mask=kept), which is 0 where nothing is kept, or divide the sum yourself, "
        "tf.math.divide_no_nan(tf.reduce_sum(x), count); or skip the term for a batch that has nothing to average."
    ),
    why=(
        "tf.boolean_mask keeps nothing in a batch without positives, a detector finds no box, the last batch is "
        "short. The mean of nothing is 0 / 0, and the largest of nothing is -inf, which goes on to the next op. It "
        "happens in the rare batch and depends on the shuffle, so it looks random."
    ),
    bad="""
        losses, kept = tf.constant([0.3, 0.7]), tf.constant([False, False])
        tf.reduce_mean(tf.boolean_mask(losses, kept))
    """,
    good="""
        losses, kept = tf.constant([0.3, 0.7]), tf.constant([False, False])
        ng.ops.mean(losses, mask=kept)
    """,
)

ALL_MASKED_SOFTMAX = Hazard(
    code="NG502",
    name="all-masked-softmax",
    summary="A softmax over entries that are all -inf is NaN.",
    cause="all_masked_softmax",
    phase="forward",
    ops=("Softmax", "LogSoftmax", "SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"),
    calls=("tf.nn.softmax", "tf.nn.log_softmax", "keras.ops.softmax", "keras.ops.log_softmax"),
    needs="at least one entry in each row that is not -inf",
    cure=(
        "Take ng.ops.softmax(scores, mask=mask), which is 0 in rows without any entry, or mask with a large finite "
        "number, tf.where(mask, scores, -1e9) (scores.dtype.min in float16), and multiply such rows by 0."
    ),
    replacements={"Softmax": "ng.ops.softmax({0})", "LogSoftmax": "ng.ops.log_softmax({0})"},
    why=(
        "The largest entry is subtracted first, and -inf minus -inf is NaN. A row is fully masked for a sequence of "
        "padding only, for the first query of a strict causal mask, or where two masks meet. One such row makes the "
        "gradients of all shared weights NaN, even where its output is thrown away later."
    ),
    bad="tf.nn.softmax([[0.0, 1.0], [-np.inf, -np.inf]])",
    good="ng.ops.softmax([[0.0, 1.0], [-np.inf, -np.inf]])",
)

CTC_INFEASIBLE = Hazard(
    code="NG503",
    name="ctc-infeasible",
    summary="The CTC loss is infinite for a label that its frames cannot spell.",
    cause="ctc_infeasible",
    phase="forward",
    ops=("CTCLoss", "CTCLossV2"),
    calls=("tf.nn.ctc_loss", "tf.compat.v1.nn.ctc_loss", "keras.losses.CTC", "keras.ops.ctc_loss"),
    needs="frames >= length of the label + number of equal neighbours in it",
    cure=(
        "Take ng.losses.CTC(), which leaves out rows whose label is too long for their frames (one frame more for each "
        "pair of equal neighbours), or let the encoder keep more frames (smaller strides)."
    ),
    why=(
        "Equal neighbours need a blank between them, so 'aa' takes three frames: a check of the bare lengths is not "
        "enough. With sparse labels a label that is too long is an error, but one that is too long only by its "
        "repeats gives +inf. With dense labels, and in Keras, the loss of such a row is about 700 instead: finite, "
        "unlearnable, and large enough to drown the other rows. ignore_longer_outputs_than_inputs hides such a row."
    ),
    bad="""
        label, frames = tf.sparse.from_dense([[1, 1]]), tf.zeros([2, 1, 4])
        tf.nn.ctc_loss(label, frames, None, [2], blank_index=0)
    """,
    good="""
        label, frames = tf.sparse.from_dense([[1, 1]]), tf.zeros([3, 1, 4])
        tf.nn.ctc_loss(label, frames, None, [3], blank_index=0)
    """,
)

DEGENERATE_MATRIX = Hazard(
    code="NG504",
    name="degenerate-matrix",
    summary="A singular or indefinite matrix has NaN for a factor, inverse or gradient.",
    cause="linalg_degenerate",
    phase="forward",
    other_phases=("backward",),
    ops=(
        "Cholesky",
        "MatrixInverse",
        "MatrixSolve",
        "MatrixTriangularSolve",
        "MatrixSolveLs",
        "SelfAdjointEigV2",
        "Svd",
        "Qr",
        "MatrixDeterminant",
        "LogMatrixDeterminant",
        "MatrixSquareRoot",
    ),
    calls=(
        "tf.linalg.cholesky",
        "tf.linalg.inv",
        "tf.linalg.solve",
        "tf.linalg.triangular_solve",
        "tf.linalg.lstsq",
        "tf.linalg.qr",
        "tf.linalg.logdet",
        "tf.linalg.slogdet",
        "keras.ops.cholesky",
        "keras.ops.inv",
        "keras.ops.solve",
        "keras.ops.qr",
    ),
    needs="a positive definite or invertible matrix, well away from the edge",
    cure=(
        "Take ng.ops.cholesky(a), which adds as little to the diagonal as it takes, add jitter yourself, "
        "a + 1e-6 * tf.eye(n) scaled to the size of a, or build the matrix from a factor, l @ transpose(l) + jitter."
    ),
    replacements={"Cholesky": "ng.ops.cholesky({0})"},
    why=(
        "tf.linalg.cholesky fills its result with NaN and says nothing; so do lstsq and logdet, which stand on it, "
        "and a triangular solve divides by a zero pivot. inv, solve and det of a singular matrix are an error on the "
        "CPU, but under XLA they give huge meaningless numbers. The gradient of qr is NaN for a rank-deficient "
        "matrix, and that of svd for entries of 1e30; those of svd and eigh at repeated values, long infamous, are "
        "finite in this version."
    ),
    bad="""
        a = tf.constant([[1.0, 1.0], [1.0, 1.0]])
        tf.linalg.diag_part(tf.linalg.cholesky(a))
    """,
    good="""
        a = tf.constant([[1.0, 1.0], [1.0, 1.0]])
        tf.linalg.diag_part(ng.ops.cholesky(a))
    """,
)

HAZARDS = (EMPTY_REDUCTION, ALL_MASKED_SOFTMAX, CTC_INFEASIBLE, DEGENERATE_MATRIX)
"""The most specific first, where several share an op."""
