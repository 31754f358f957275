"""Places in a model where a running training can be given a bad number, without a new trace."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class Tap(keras.layers.Layer):
    """Passes its input on; while a fault is armed, one number of it or of its gradient is replaced or has bits flipped.

    While none is, not one bit differs: the number comes out of a `where`, and is not added.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # TensorFlow's own variables: Keras does not list them, so that they are no part of the state that is compared.
        self.forward = tf.Variable(0.0, trainable=False, name="fault_forward")
        self.backward = tf.Variable(0.0, trainable=False, name="fault_backward")
        self.forward_flip = tf.Variable(0, trainable=False, dtype=tf.int32, name="fault_forward_flip")
        self.backward_flip = tf.Variable(0, trainable=False, dtype=tf.int32, name="fault_backward_flip")

    def call(self, inputs: Any) -> Any:
        """Passes the input on."""

        # The bits of a number have no derivative: that of the tap is written by hand.
        @tf.custom_gradient
        def through(x: Any) -> Any:
            return (
                _replaced(x, self.forward, self.forward_flip),
                lambda upstream: _replaced(upstream, self.backward, self.backward_flip),
            )

        return through(inputs)

    def disarm(self) -> None:
        """Lets all numbers through again."""
        self.forward.assign(0.0)
        self.backward.assign(0.0)
        self.forward_flip.assign(0)
        self.backward_flip.assign(0)


def _replaced(tensor: Any, fault: Any, flip: Any) -> Any:
    number = fault.read_value()
    size = tf.size(tensor)
    is_place = tf.reshape(tf.equal(tf.range(size), size // 2), tf.shape(tensor))
    result = tf.where(tf.logical_and(is_place, tf.not_equal(number, 0.0)), tf.cast(number, tensor.dtype), tensor)
    if tensor.dtype != tf.float32:
        return result
    mask = tf.where(is_place, flip.read_value(), 0)
    return tf.bitcast(tf.bitwise.bitwise_xor(tf.bitcast(result, tf.int32), mask), tf.float32)
