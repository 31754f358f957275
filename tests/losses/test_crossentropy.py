"""A wrong prediction that is saturated can still be learnt, and a label that does not exist is an error or counts 0."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import losses


def slope(loss: Any, y_true: Any, y_pred: Any, **arguments: Any) -> np.ndarray:
    """Gives the gradient of the sum of a loss's values."""
    y_pred = tf.convert_to_tensor(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        values = loss(y_true, y_pred, **arguments)
    return tf.convert_to_tensor(tape.gradient(values, y_pred)).numpy()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["binary_crossentropy", "binary_focal_crossentropy"])
def test_a_saturated_wrong_yes_or_no_is_pulled_back(name: str, dtype: str) -> None:
    """At exactly 0 and 1 a wrong prediction has a large finite slope the right way, where Keras's own has 0."""
    y_true, y_pred = tf.constant([[1.0, 0.0]], dtype), tf.constant([[0.0, 1.0]], dtype)
    ours = slope(getattr(losses, name), y_true, y_pred).astype("float64")[0]
    assert -1e8 < ours[0] < -1e3 < 1e3 < ours[1] < 1e8
    if name == "binary_crossentropy" and dtype == "float32":
        assert (slope(keras.losses.binary_crossentropy, y_true, y_pred) == 0).all()


@pytest.mark.parametrize("name", ["categorical_crossentropy", "categorical_focal_crossentropy", "kl_divergence"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_saturated_wrong_class_is_pulled_back(name: str, dtype: str) -> None:
    """The right class at exactly 0 has a large finite slope upwards, where Keras's own has 0."""
    y_true, y_pred = tf.constant([[1.0, 0.0]], dtype), tf.constant([[0.0, 1.0]], dtype)
    ours = slope(getattr(losses, name), y_true, y_pred).astype("float64")[0]
    assert -1e8 < ours[0] < -1e3
    if dtype == "float32":
        assert slope(getattr(keras.losses, name), y_true, y_pred)[0, 0] >= 0


@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "categorical_generalized_cross_entropy"])
def test_a_saturated_wrong_label_is_pulled_back(name: str) -> None:
    """The class of the label at exactly 0 has a large finite slope upwards."""
    arguments = {"q": 0.5} if "generalized" in name else {}
    ours = slope(getattr(losses, name), [0], [[0.0, 1.0]], **arguments)[0]
    assert -1e8 < ours[0] < -1e3


@pytest.mark.parametrize("p", [1e-18, 1e-12, 1e-7, 0.3, 1 - 2**-20, 1 - 2**-23])
def test_values_near_0_and_1_are_exact(p: float) -> None:
    """The crossentropy of a probability is right to 2 units in the last place, where Keras clips at 1e-7."""
    p = float(np.float32(p))
    exact = np.array([-np.log(p), -np.log1p(-p)])
    ours = np.array(
        [losses.binary_crossentropy([[each]], np.array([[p]], "float32")).numpy()[0] for each in (1.0, 0.0)]
    )
    assert np.all(np.abs(ours - exact) <= 2 * np.spacing(exact.astype("float32")))


def test_the_logits_behind_a_prediction_are_used() -> None:
    """A prediction that still knows its logits gives the loss of the logits, in both dtypes of mixed precision."""
    logits = tf.constant([[30.0, -40.0, 0.5]], tf.float16)
    binary = keras.layers.Activation("sigmoid", dtype="float16")(logits)
    classes = keras.layers.Activation("softmax", dtype="float16")(logits)
    wide = tf.cast(logits, tf.float32)
    cases = [
        (losses.BinaryCrossentropy, [[0.0, 1.0, 1.0]], binary),
        (losses.CategoricalCrossentropy, [[0.0, 1.0, 0.0]], classes),
        (losses.SparseCategoricalCrossentropy, [1], classes),
        (losses.CategoricalFocalCrossentropy, [[0.0, 1.0, 0.0]], classes),
        (losses.BinaryFocalCrossentropy, [[0.0, 1.0, 1.0]], binary),
    ]
    for loss, y_true, prediction in cases:
        expected = loss(from_logits=True)(y_true, wide)
        np.testing.assert_allclose(loss()(y_true, prediction), expected, rtol=1e-6)


def test_logits_behind_an_op_of_a_graph_are_used() -> None:
    """In a graph the logits of `tf.nn.softmax` and `tf.sigmoid` are found too."""
    logits = tf.constant([[200.0, -200.0]])

    @tf.function
    def values(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (
            losses.categorical_crossentropy([[0.0, 1.0]], tf.nn.softmax(x)),
            losses.binary_crossentropy([[0.0, 1.0]], tf.sigmoid(x)),
        )

    np.testing.assert_allclose(np.concatenate(values(logits)), [400.0, 200.0])


def test_probabilities_said_to_be_logits_are_warned_of() -> None:
    """`from_logits=True` with a prediction made by an activation is used rightly, with a warning."""
    prediction = keras.layers.Activation("softmax")(tf.constant([[1.0, 2.0]]))
    with pytest.warns(UserWarning, match="is made by a softmax"):
        losses.categorical_crossentropy([[0.0, 1.0]], prediction, from_logits=True)


@pytest.mark.parametrize("from_logits", [False, True])
def test_labels_out_of_range_are_an_error_in_eager_mode(from_logits: bool) -> None:
    """The error names the labels, the rows and the number of classes."""
    message = r"Labels must be from 0 to 2, for 3 classes. Received: -1, 3 at 1, 3 \(2 of 4 labels\)"
    with pytest.raises(ValueError, match=message):
        losses.sparse_categorical_crossentropy([0, 3, 1, -1], np.ones((4, 3), "float32"), from_logits)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
def test_labels_out_of_range_count_0_in_a_graph(jit_compile: bool, from_logits: bool) -> None:
    """In a graph, and compiled, such a row has the value 0 and no gradient, and the others are what they are alone."""

    def values(y_true: tf.Tensor, y_pred: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            result = losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits)
        return result, tape.gradient(result, y_pred)

    y_pred = tf.constant(np.random.default_rng(0).uniform(0.1, 1, (4, 3)).astype("float32"))
    value, gradient = tf.function(values, jit_compile=jit_compile)(tf.constant([0, 3, 1, -1]), y_pred)
    expected = values(tf.constant([0, 1]), tf.gather(y_pred, [0, 2]))
    assert (value.numpy()[[1, 3]] == 0).all()
    assert (gradient.numpy()[[1, 3]] == 0).all()
    np.testing.assert_allclose(value.numpy()[[0, 2]], expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient.numpy()[[0, 2]], expected[1], rtol=1e-5)


def test_a_missing_label_stays_visible() -> None:
    """A NaN label gives NaN, an ignored class 0 and no gradient even where its prediction is NaN."""
    y_pred = np.array([[0.5, 0.5], [0.5, 0.5], [np.nan, 0.5]], "float32")
    labels = np.array([np.nan, 1.0, -1.0], "float32")
    values = losses.sparse_categorical_crossentropy(labels, y_pred, ignore_class=-1).numpy()
    assert np.isnan(values[0])
    np.testing.assert_allclose(values[1:], [np.log(2), 0], rtol=1e-6)
    ignored = slope(losses.sparse_categorical_crossentropy, labels, y_pred, ignore_class=-1)
    assert (ignored[2] == 0).all()


def test_classes_may_lie_on_any_axis() -> None:
    """With `axis` the classes may lie anywhere, for labels too, which Keras's TensorFlow backend refuses."""
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    labels = np.array([[0, 1, 2, 0], [2, 1, 0, 0]])
    moved = losses.sparse_categorical_crossentropy(labels, logits, from_logits=True, axis=1)
    last = losses.sparse_categorical_crossentropy(labels, logits.swapaxes(1, 2), from_logits=True)
    np.testing.assert_array_equal(moved, last)
    with pytest.raises(ValueError, match="`axis` must be an axis of `y_pred`"):
        losses.categorical_crossentropy(logits, logits, axis=3)


def test_shapes_that_do_not_fit_are_an_error() -> None:
    """Targets of another shape are refused, not broadcast."""
    with pytest.raises(ValueError, match="must have the same shape"):
        losses.categorical_crossentropy(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="one class number for each row"):
        losses.sparse_categorical_crossentropy(np.ones((3,)), np.ones((2, 4)))


def test_a_row_of_zeros_learns() -> None:
    """Probabilities that are all 0 have a finite loss, and the right class a slope upwards."""
    loss, zeros = losses.categorical_crossentropy, np.zeros((1, 3), "float32")
    assert np.isfinite(loss([[0.0, 1.0, 0.0]], zeros)).all()
    assert slope(loss, [[0.0, 1.0, 0.0]], zeros)[0, 1] < -1e3


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_saturated_softmax_learns_under_mixed_precision() -> None:
    """Where Keras's own loss has gradient 0, for the cast to float32 hides the logits, ours brings the weights back."""
    inputs, labels = np.ones((16, 1), "float32"), np.zeros(16)

    def weights_after(loss: keras.losses.Loss) -> tuple[np.ndarray, np.ndarray]:
        policy = keras.mixed_precision.dtype_policy()
        keras.mixed_precision.set_dtype_policy("mixed_float16")
        try:
            start = [np.array([[-30.0, 30.0]], "float32"), np.zeros(2, "float32")]
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax")])
            model.set_weights(start)
            model.compile(keras.optimizers.SGD(20.0), loss)
            model.fit(inputs, labels, epochs=8, verbose=0)
            return start[0], np.add(*model.get_weights())
        finally:
            keras.mixed_precision.set_dtype_policy(policy)

    before, after = weights_after(keras.losses.SparseCategoricalCrossentropy())
    np.testing.assert_array_equal(after, before)
    _, after = weights_after(losses.SparseCategoricalCrossentropy())
    assert after[0, 0] > after[0, 1]


class TestCTC:
    """Connectionist temporal classification."""

    @pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
    def test_impossible_targets_teach_nothing(self, mode: str) -> None:
        """A target that needs more frames, repeats counted, has the value 0 and no gradient, and spoils no other."""

        def values(y_true: tf.Tensor, y_pred: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                result = losses.ctc(y_true, y_pred)
            return result, tape.gradient(result, y_pred)

        function = values if mode == "eager" else tf.function(values, jit_compile=mode == "xla")
        logits = tf.constant(np.random.default_rng(0).normal(size=(4, 2, 4)).astype("float32"))
        labels = tf.constant([[1, 2, 0], [1, 1, 0], [1, 2, 3], [0, 0, 0]])
        value, gradient = function(labels, logits)
        expected = values(tf.gather(labels, [0, 3]), tf.gather(logits, [0, 3]))
        assert (value.numpy()[1:3] == 0).all()
        assert (gradient.numpy()[1:3] == 0).all()
        np.testing.assert_allclose(value.numpy()[::3], expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient.numpy()[::3], expected[1], rtol=1e-4, atol=1e-6)

    def test_their_value_may_be_a_bound(self) -> None:
        """With "bound" an impossible target costs 44 for each frame, so that it is seen in the mean."""
        logits = np.zeros((1, 2, 3), "float32")
        np.testing.assert_allclose(losses.ctc([[1, 1]], logits, impossible="bound"), [2 * 63 * np.log(2)], rtol=1e-6)
        with pytest.raises(ValueError, match="`impossible` must be one of"):
            losses.ctc([[1, 1]], logits, impossible="skip")

    def test_huge_logits_and_no_rows_are_finite(self) -> None:
        """The largest logits give finite values and slopes, and an empty batch is empty."""
        logits = np.random.default_rng(0).choice([-3e38, 0, 3e38], (20, 6, 4)).astype("float32")
        labels = np.tile([[1, 2, 2], [3, 0, 0]], (10, 1))
        assert np.isfinite(losses.ctc(labels, logits)).all()
        assert np.isfinite(slope(losses.ctc, labels, logits)).all()
        assert losses.ctc(labels[:0], logits[:0]).shape == (0,)

    def test_labels_that_do_not_exist_are_an_error(self) -> None:
        """In eager mode a label out of range is refused, with the number of classes."""
        with pytest.raises(ValueError, match="Labels must be from 0 to 2, for 3 classes"):
            losses.ctc([[1, 3]], np.zeros((1, 5, 3), "float32"))
