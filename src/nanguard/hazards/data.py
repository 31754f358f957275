"""Rows, columns and labels that no model can learn from as they are."""

from __future__ import annotations

from nanguard.hazards._hazard import FLOATS, INTEGERS, Hazard, Region
from nanguard.intervals import below

NAN_OR_INF_IN_FEATURES = Hazard(
    code="NG701",
    name="nan-or-inf-in-features",
    summary="A feature cell is NaN or infinite, and one is enough to lose all weights.",
    cause="data_nan_inf",
    phase="data",
    calls=("keras.Model.fit", "keras.Model.train_on_batch"),
    needs="finite features",
    cure=(
        "Leave out the rows with missing cells, x[np.isfinite(x).all(axis=1)], or have the model fill them: "
        "nanguard.clean.Cleaner(indicators=True), adapted, as its first layer. `nanguard clean` repairs a file."
    ),
    why=(
        "An empty cell of a CSV file is NaN. The gradient of one row is added to that of all others, and after one "
        "update every weight is NaN. A fused relu on the CPU may turn the NaN into 0, so that the loss stays finite "
        "while the weights die. Masking(nan) masks nothing, sample_weight=0 keeps the NaN, and one NaN in "
        "Normalization.adapt spoils the whole column."
    ),
    bad="""
        x, y = np.array([[1.0], [np.nan], [3.0]]), np.array([1.0, 2.0, 3.0])
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile('sgd', 'mse')
        model.fit(x, y, epochs=2, verbose=0)
        model.get_weights()
    """,
    good="""
        x, y = np.array([[1.0], [np.nan], [3.0]]), np.array([1.0, 2.0, 3.0])
        kept = np.isfinite(x).all(axis=1)
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile('sgd', 'mse')
        model.fit(x[kept], y[kept], epochs=2, verbose=0)
        model.get_weights()
    """,
)

PREPROCESSING_MADE_NONFINITE = Hazard(
    code="NG702",
    name="preprocessing-made-nonfinite",
    summary="Scaling divided finite data by a zero range, or took the logarithm of 0.",
    cause="data_bad_preprocessing",
    phase="data",
    calls=("keras.layers.Normalization", "tf.data.Dataset.map", "keras.layers.Rescaling"),
    needs="a deviation or range above 0",
    cure="Divide a constant column by 1, np.where(std > 0, std, 1.0), or leave it out; use np.log1p for counts.",
    why=(
        "A column that never varies, a blank image, a group of one row: the range is 0 and (x - min) / range is 0 / "
        "0. NumPy and pandas say so in a warning that scrolls away. It appears after a split or a filter, when the "
        "few rows left happen to agree, or in the batch when the scaling is done per sample."
    ),
    bad="""
        x = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
        with np.errstate(invalid='ignore'):
            scaled = (x - x.mean(axis=0)) / x.std(axis=0)
        scaled
    """,
    good="""
        x = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
        std = x.std(axis=0)
        scaled = (x - x.mean(axis=0)) / np.where(std > 0, std, 1.0)
        scaled
    """,
)

MISSING_LABELS = Hazard(
    code="NG703",
    name="missing-labels",
    summary="A target is NaN, and the loss of its row with it.",
    cause="data_missing_labels",
    phase="data",
    calls=("keras.Model.fit", "keras.Model.train_on_batch"),
    needs="finite targets",
    cure=(
        "Leave out rows without a target, or fill the target with any finite number and give the row sample_weight=0: "
        "both are needed."
    ),
    why=(
        "0 * NaN is NaN: a mask or sample_weight=0 does not take a missing target out of the loss. Targets go missing "
        "in multi-task tables, at the ends of shifted time series, and in joins. np.nan cast to an integer class id "
        "becomes a huge negative number instead, and is then a label out of range."
    ),
    bad="""
        x, y = np.ones((3, 1)), np.array([1.0, np.nan, 3.0])
        weight = np.isfinite(y).astype('float32')
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile('sgd', 'mse')
        model.fit(x, y, sample_weight=weight, verbose=0)
        model.get_weights()
    """,
    good="""
        x, y = np.ones((3, 1)), np.array([1.0, np.nan, 3.0])
        weight = np.isfinite(y).astype('float32')
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile('sgd', 'mse')
        model.fit(x, np.nan_to_num(y), sample_weight=weight, verbose=0)
        model.get_weights()
    """,
)

BAD_ANNOTATION = Hazard(
    code="NG704",
    name="bad-annotation",
    summary="An annotation is impossible: swapped corners, no area, a negative count.",
    cause="data_bad_annotation",
    phase="data",
    needs="boxes with left < right and top < bottom, counts and times that are not negative",
    cure=(
        "Screen annotations when they are read: sort the corners, leave out boxes without area, and stop at counts or "
        "times below 0."
    ),
    why=(
        "The loss takes the logarithm of a width, the root of an area, or divides by either, and every such function "
        "has its edge at 0. A few boxes in a hundred thousand are enough, so it shows after an hour, in another batch "
        "each time. Clamping in the loss hides the row and keeps its wrong target."
    ),
    bad="""
        boxes = tf.constant([[10.0, 10.0, 50.0, 40.0], [60.0, 20.0, 30.0, 45.0]])
        tf.math.log((boxes[:, 2] - boxes[:, 0]) / 32.0)
    """,
    good="""
        boxes = tf.constant([[10.0, 10.0, 50.0, 40.0], [60.0, 20.0, 30.0, 45.0]])
        width = tf.abs(boxes[:, 2] - boxes[:, 0])
        tf.math.log(tf.boolean_mask(width, width > 0) / 32.0)
    """,
)

UNSCALED_INPUTS = Hazard(
    code="NG705",
    name="unscaled-inputs",
    summary="Features of a large scale make the first steps explode.",
    cause="data_scale",
    phase="data",
    calls=("keras.Model.fit", "keras.layers.Normalization"),
    needs="features and targets near unit scale",
    cure=(
        "Scale features to mean 0 and deviation 1, with keras.layers.Normalization in the model, and regression "
        "targets too."
    ),
    why=(
        "The curvature of the loss grows with the square of the inputs, so a rate that suits unit scale is 1e12 "
        "times too high for prices in millions. Timestamps, pixel sums and account numbers do the same. It looks like "
        "a learning rate that is too high, and lowering the rate is the slow cure."
    ),
    bad="""
        x = np.array([[1.1e6], [2.3e6], [3.2e6], [4.4e6]])
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), 'mse')
        model.fit(x, np.arange(4.0), epochs=5, verbose=0).history['loss']
    """,
    good="""
        x = np.array([[1.1e6], [2.3e6], [3.2e6], [4.4e6]])
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), 'mse')
        model.fit(x, np.arange(4.0), epochs=5, verbose=0).history['loss']
    """,
)

OUTLIER_ROWS = Hazard(
    code="NG706",
    name="outlier-rows",
    summary="A few rows hold a fill value or spike that overflows the loss.",
    cause="data_outlier",
    phase="data",
    calls=("keras.Model.fit", "keras.Model.train_on_batch"),
    needs="values within the range that the column can have",
    cure=(
        "Treat fill values as the missing cells that they are, np.where(np.abs(x) > limit, np.nan, x) and then impute "
        "or leave out, and bound what is left at a high quantile."
    ),
    why=(
        "-3.4e38, 1e30 and -999 stand for missing in rasters, simulations and old tables; a sensor spikes. A finite "
        "1e30 overflows in its first square. Scaling first makes it worse: the spike sets mean and deviation, and all "
        "other rows become the same number. Clipping gradients does not help, for the norm itself overflows."
    ),
    bad="""
        x, y = np.array([[1.0], [2.0], [-3.4e38]]), np.array([1.0, 2.0, 3.0])
        model = keras.Sequential([keras.layers.Dense(1, kernel_initializer='ones')])
        model.compile('sgd', 'mse')
        model.fit(x, y, epochs=2, verbose=0)
        model.get_weights()
    """,
    good="""
        x, y = np.array([[1.0], [2.0], [-3.4e38]]), np.array([1.0, 2.0, 3.0])
        kept = (np.abs(x) < 1e6).all(axis=1)
        model = keras.Sequential([keras.layers.Dense(1, kernel_initializer='ones')])
        model.compile('sgd', 'mse')
        model.fit(x[kept], y[kept], epochs=2, verbose=0)
        model.get_weights()
    """,
)

LABEL_OUT_OF_RANGE = Hazard(
    code="NG707",
    name="label-out-of-range",
    summary="A class id is negative or not below the number of outputs.",
    cause="label_out_of_range",
    phase="data",
    other_phases=("forward",),
    ops=("SparseSoftmaxCrossEntropyWithLogits", "GatherV2", "ResourceGather", "GatherNd"),
    calls=(
        "keras.losses.SparseCategoricalCrossentropy",
        "keras.losses.sparse_categorical_crossentropy",
        "tf.nn.sparse_softmax_cross_entropy_with_logits",
        "tf.gather",
        "keras.layers.Embedding",
    ),
    strikes=(
        # The upper end is a matter of shape. Whether an index below 0 gives NaN, an error or another row depends on
        # the device.
        Region(operand=1, within=below(0), ops=("SparseSoftmaxCrossEntropyWithLogits", "GatherV2"), is_certain=False),
    ),
    dtypes=(*FLOATS, *INTEGERS),
    needs="0 <= label < number of outputs",
    cure=(
        "Map the labels to 0, 1, ... and give the last layer one output for each, or leave ids such as 255 and -1 out "
        "of the loss with ignore_class=255."
    ),
    why=(
        "255 means void in segmentation masks, -1 means unlabelled, and classes counted from 1 need one output more. "
        "On the CPU it is an error outside XLA; under jit_compile=True and on a GPU the row's loss is silently NaN. "
        "An index out of range into an embedding is an error on the CPU too, and under XLA the nearest row is read "
        "instead."
    ),
    bad="""
        labels, logits = tf.constant([0, 255]), tf.zeros([2, 2])
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits
        tf.function(loss, jit_compile=True)(labels, logits)
    """,
    good="""
        labels, logits = tf.constant([0, 255]), tf.zeros([2, 2])
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=255
        )
        tf.function(loss, jit_compile=True)(labels, logits)
    """,
)

HAZARDS = (
    NAN_OR_INF_IN_FEATURES,
    PREPROCESSING_MADE_NONFINITE,
    MISSING_LABELS,
    BAD_ANNOTATION,
    UNSCALED_INPUTS,
    OUTLIER_ROWS,
    LABEL_OUT_OF_RANGE,
)
"""The most specific first, where several share an op."""
