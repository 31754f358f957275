"""What goes wrong between steps: divergence, schedules, clipping, updates, and state that stays poisoned."""

from __future__ import annotations

from nanguard.hazards._hazard import ANY_OP, Hazard

DIVERGING_LEARNING_RATE = Hazard(
    code="NG601",
    name="diverging-learning-rate",
    summary="Each step overshoots by more than the last, until a number overflows.",
    cause="lr_too_high",
    phase="divergence",
    calls=("keras.optimizers.SGD", "keras.optimizers.Adam", "keras.optimizers.RMSprop"),
    needs="a learning rate that suits the scale of loss and inputs",
    cure=(
        "Lower the learning rate by a factor of 10, warm it up, or bound the step with clipnorm=1.0; if the inputs "
        "are not near unit scale, scale them first."
    ),
    why=(
        "The loss grows for several steps, finite all the while, and the op that overflows at last says nothing about "
        "the cause: look at the loss and the gradient norms of the steps before. Loss summed instead of averaged, or "
        "several devices, multiply the rate without a word. Gradient clipping bounds a step that is finite; it does "
        "not heal a NaN."
    ),
    bad="""
        x = np.linspace(-10, 10, 32, dtype='float32')[:, None]
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(10.0), 'mse')
        model.fit(x, 3 * x, epochs=20, verbose=0).history['loss']
    """,
    good="""
        x = np.linspace(-10, 10, 32, dtype='float32')[:, None]
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), 'mse')
        model.fit(x, 3 * x, epochs=20, verbose=0).history['loss']
    """,
)

EXPLODING_RECURRENCE = Hazard(
    code="NG602",
    name="exploding-recurrence",
    summary="A recurrence multiplies its state or gradient each step until it overflows.",
    cause="exploding_rnn",
    phase="divergence",
    calls=("keras.layers.SimpleRNN", "keras.layers.LSTM", "keras.layers.GRU", "keras.layers.RNN", "tf.scan"),
    needs="a recurrence whose gain is at most 1",
    cure=(
        "Use tanh or a gated cell instead of a relu, start the recurrent kernel orthogonal, clip gradients with "
        "clipnorm=1.0, and shorten the sequences."
    ),
    why=(
        "200 steps with a gain of 2 are 2 ** 200, beyond float32. A relu recurrence has no bound on its state; a tanh "
        "one has, and its gradient can still explode. One long sequence in a batch is enough, so it comes with the "
        "rare batch, and grows with the length that the data happens to have."
    ),
    bad="""
        double = keras.initializers.Identity(2.0)
        rnn = keras.layers.SimpleRNN(2, 'relu', recurrent_initializer=double)
        rnn(tf.constant([[[1.0, -1.0]] * 200]))
    """,
    good="""
        rnn = keras.layers.SimpleRNN(2, 'tanh', recurrent_initializer='orthogonal')
        rnn(tf.constant([[[1.0, -1.0]] * 200]))
    """,
)

LEARNING_RATE_SCHEDULE_NONFINITE = Hazard(
    code="NG603",
    name="learning-rate-schedule-nonfinite",
    summary="The schedule itself gives NaN or infinity, and the update takes it over.",
    cause="lr_schedule_nan",
    phase="update",
    calls=("keras.optimizers.schedules.LearningRateSchedule", "keras.callbacks.LearningRateScheduler"),
    needs="a finite learning rate at every step",
    cure="Bound what the schedule raises, divides or takes a logarithm of: tf.maximum(0.0, 1.0 - step / total).",
    why=(
        "(1 - step / total) ** 0.9 is NaN one step after its total, and warm-up divided by its own length is 0 / 0 "
        "for a length of 0. Loss and gradients are finite; the weights are NaN after the update, and the next loss "
        "with them. Training longer than planned, or resuming, is what brings it out."
    ),
    bad="""
        w = keras.Variable([1.0])
        optimizer = keras.optimizers.SGD(0.1)
        for step in range(4):
            left = 1.0 - step / 2
            optimizer.learning_rate = 0.1 * tf.pow(left, 0.9)
            optimizer.apply([tf.constant([1.0])], [w])
        w.numpy()
    """,
    good="""
        w = keras.Variable([1.0])
        optimizer = keras.optimizers.SGD(0.1)
        for step in range(4):
            left = tf.maximum(0.0, 1.0 - step / 2)
            optimizer.learning_rate = 0.1 * tf.pow(left, 0.9)
            optimizer.apply([tf.constant([1.0])], [w])
        w.numpy()
    """,
)

CLIPPING_SPREADS_NAN = Hazard(
    code="NG604",
    name="clipping-spreads-nan",
    summary="Clipping by the global norm makes all gradients NaN if one is not finite.",
    cause="clip_spreads_nan",
    phase="update",
    calls=("tf.clip_by_global_norm", "tf.clip_by_norm", "tf.linalg.global_norm"),
    needs="a finite global norm",
    cure="Look at the global norm first and leave the step out if it is not finite; then cure what made it so.",
    why=(
        "All gradients are scaled by one norm, so one NaN in one variable is in all of them. A finite 1e30 is enough: "
        "its square overflows, the norm is infinite. clipnorm spreads a NaN through its own variable only, and "
        "clipvalue turns an infinity silently into 1. No clipping protects from a NaN; the birth is before it."
    ),
    bad="""
        v, w = keras.Variable([1.0]), keras.Variable([1.0])
        grads = [tf.constant([0.1]), tf.constant([1e30])]
        grads, norm = tf.clip_by_global_norm(grads, 1.0)
        keras.optimizers.SGD(0.1).apply(grads, [v, w])
        v.numpy()
    """,
    good="""
        v, w = keras.Variable([1.0]), keras.Variable([1.0])
        grads = [tf.constant([0.1]), tf.constant([1e30])]
        norm = tf.linalg.global_norm(grads)
        if tf.math.is_finite(norm):
            grads, norm = tf.clip_by_global_norm(grads, 1.0, use_norm=norm)
            keras.optimizers.SGD(0.1).apply(grads, [v, w])
        v.numpy()
    """,
)

BATCHNORM_POISONED = Hazard(
    code="NG605",
    name="batchnorm-poisoned",
    summary="One bad batch leaves the moving mean and variance NaN for ever.",
    cause="batchnorm_poisoned",
    phase="state",
    calls=("keras.layers.BatchNormalization",),
    needs="finite batches at the layer, in skipped steps too",
    cure=(
        "Screen the batch before it enters the model, and put saved moving statistics back (or reset them to 0 and 1) "
        "after a step that was not finite."
    ),
    why=(
        "The moving statistics are assigned in the forward pass, so leaving the update out is too late. They are "
        "averages that remember: one NaN stays. Training does not read them and looks perfect; evaluate and predict "
        "do, and give NaN from then on."
    ),
    bad="""
        norm = keras.layers.BatchNormalization()
        for batch in (np.ones((2, 1)), np.full((2, 1), np.nan), np.ones((2, 1))):
            norm(batch, training=True)
        norm(np.ones((2, 1)), training=False)
    """,
    good="""
        norm = keras.layers.BatchNormalization()
        for batch in (np.ones((2, 1)), np.full((2, 1), np.nan), np.ones((2, 1))):
            if np.isfinite(batch).all():
                norm(batch, training=True)
        norm(np.ones((2, 1)), training=False)
    """,
)

WEIGHTS_NONFINITE_BEFORE_TRAINING = Hazard(
    code="NG606",
    name="weights-nonfinite-before-training",
    summary="A weight was NaN or infinite before the first step.",
    cause="weights_already_nan",
    phase="state",
    calls=("keras.models.load_model", "keras.Model.load_weights", "keras.Layer.set_weights"),
    needs="finite weights at the start",
    cure="Load an older checkpoint, or replace the rows that are not finite before training, np.nan_to_num(weights).",
    why=(
        "A checkpoint written after the NaN, or an embedding row with no vector in the file it was read from. Only "
        "rows that are looked up spread it, so it may take many steps to be seen. No setting of the training heals "
        "it. ModelCheckpoint overwrites a good file with such weights unless save_best_only=True is set."
    ),
    bad="""
        vectors = np.array([[0.1, 0.2], [np.nan, np.nan]], 'float32')
        layer = keras.layers.Embedding(2, 2)
        layer.build()
        layer.set_weights([vectors])
        layer(np.array([0, 1]))
    """,
    good="""
        vectors = np.array([[0.1, 0.2], [np.nan, np.nan]], 'float32')
        layer = keras.layers.Embedding(2, 2)
        layer.build()
        mean = np.nanmean(vectors, axis=0)
        layer.set_weights([np.where(np.isfinite(vectors), vectors, mean)])
        layer(np.array([0, 1]))
    """,
)

METRIC_NONFINITE_ONLY = Hazard(
    code="NG607",
    name="metric-nonfinite-only",
    summary="A metric is NaN or infinite; loss, gradients and weights are healthy.",
    cause="metric_only",
    phase="state",
    calls=("keras.metrics.Metric", "keras.metrics.MeanMetricWrapper"),
    needs="a metric that has an answer for every batch",
    cure="Write the metric's quotient with tf.math.divide_no_nan; the training needs no change.",
    why=(
        "Precision without a positive prediction is 0 / 0. Nothing is trained on it. A running mean stays NaN to the "
        "end of the epoch, and EarlyStopping, ReduceLROnPlateau or ModelCheckpoint that watch it are misled."
    ),
    bad="""
        def precision(y, p):
            found = tf.round(p)
            return tf.reduce_sum(y * found) / tf.reduce_sum(found)
        model = keras.Sequential([keras.layers.Dense(1, 'sigmoid')])
        model.compile('sgd', 'mse', metrics=[precision])
        x = np.zeros((4, 1))
        model.fit(x, x, verbose=0).history['precision']
    """,
    good="""
        def precision(y, p):
            found = tf.round(p)
            hits = tf.reduce_sum(y * found)
            return tf.math.divide_no_nan(hits, tf.reduce_sum(found))
        model = keras.Sequential([keras.layers.Dense(1, 'sigmoid')])
        model.compile('sgd', 'mse', metrics=[precision])
        x = np.zeros((4, 1))
        model.fit(x, x, verbose=0).history['precision']
    """,
)

OPTIMIZER_UPDATE_NONFINITE = Hazard(
    code="NG608",
    name="optimizer-update-nonfinite",
    summary="All gradients are finite, and the optimizer's own arithmetic is not.",
    cause="div_by_zero",
    phase="update",
    ops=(ANY_OP,),
    calls=("keras.optimizers.Adam", "keras.optimizers.AdamW", "keras.optimizers.RMSprop", "keras.optimizers.Adagrad"),
    needs="an epsilon above 0 and gradients below 1.8e19 (float32)",
    cure=(
        "Give the optimizer an epsilon that the weights' dtype can hold (1e-7 in float32, 1e-3 with float16 weights), "
        "and bound extreme gradients with clipvalue or by curing the op that makes them."
    ),
    why=(
        "Adam and its kin divide by sqrt(second moment) + epsilon: 0 / 0 with epsilon=0 and a gradient of 0, such as "
        "that of an unused embedding row. And they square the gradient: 8.5e37, the slope of a logarithm at the "
        "smallest normal number, makes the second moment infinite, and a clean step later the weight is NaN."
    ),
    bad="""
        w = keras.Variable([1.0])
        optimizer = keras.optimizers.Adam(0.1, epsilon=0.0)
        optimizer.apply([tf.constant([0.0])], [w])
        w.numpy()
    """,
    good="""
        w = keras.Variable([1.0])
        optimizer = keras.optimizers.Adam(0.1, epsilon=1e-7)
        optimizer.apply([tf.constant([0.0])], [w])
        w.numpy()
    """,
)

HAZARDS = (
    DIVERGING_LEARNING_RATE,
    EXPLODING_RECURRENCE,
    LEARNING_RATE_SCHEDULE_NONFINITE,
    CLIPPING_SPREADS_NAN,
    BATCHNORM_POISONED,
    WEIGHTS_NONFINITE_BEFORE_TRAINING,
    METRIC_NONFINITE_ONLY,
    OPTIMIZER_UPDATE_NONFINITE,
)
"""The most specific first, where several share an op."""
