"""What Keras hangs on a prediction is still where `nanguard.backend.predictions` looks for it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard.backend.predictions import cast_prediction, logits_behind, mask_of, set_mask


def test_keras_marks_the_logits_of_its_activations() -> None:
    """A sigmoid and a softmax of Keras say which logits they were made of."""
    logits = tf.constant([[1.0, -2.0]])
    for activation in ("sigmoid", "softmax"):
        assert logits_behind(keras.layers.Activation(activation)(logits)) is not None, (
            f"Keras no longer hangs `_keras_logits` on a {activation}."
        )
    assert logits_behind(logits) is None


def test_keras_marks_the_mask_of_its_layers() -> None:
    """A layer that masks says so on what it gives."""
    masked = keras.layers.Masking()(np.array([[[0.0], [1.0]]], "float32"))
    assert mask_of(masked) is not None, "Keras no longer hangs `_keras_mask` on what a layer gives."
    assert mask_of(set_mask(tf.zeros([2]), tf.constant([True, False]))) is not None


def test_keras_reads_the_mask_that_a_loss_sets() -> None:
    """Keras's own loss classes leave out what a loss function of ours masks."""

    class Masked(keras.losses.Loss):
        def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
            return set_mask(tf.reduce_mean(y_pred, -1), tf.constant([True, False]))

    assert float(Masked()(np.zeros((2, 1)), np.array([[1.0], [3.0]]))) == pytest.approx(1.0)


def test_a_cast_keeps_logits_and_mask() -> None:
    """A prediction in another dtype has its logits in that dtype, and its mask."""
    prediction = keras.layers.Activation("sigmoid")(tf.constant([[1.0]], tf.float16))
    wide = cast_prediction(set_mask(prediction, tf.constant([True])), "float32")
    assert logits_behind(wide).dtype == wide.dtype == tf.float32
    assert mask_of(wide) is not None


def test_a_graph_shows_the_op_behind() -> None:
    """In a graph the logits of `tf.nn.softmax` are found, through a cast too, and only where they are asked for."""
    found = {}

    @tf.function
    def trace(x: tf.Tensor) -> tf.Tensor:
        prediction = tf.cast(tf.nn.softmax(x), tf.float32)
        found.update({kind: logits_behind(prediction, kind) for kind in ("Softmax", "Sigmoid", None)})
        return prediction

    trace(tf.zeros([1, 2], tf.float16))
    assert found["Softmax"] is not None
    assert found["Softmax"].dtype == tf.float32
    assert found["Sigmoid"] is None
    assert found[None] is None
