"""Distances between rows."""

import tensorflow as tf


def euclidean(a, b):
    difference = tf.cast(a, b.dtype) - b
    squared = tf.reduce_sum(tf.square(difference), axis=-1)
    return tf.sqrt(squared)  # NG301 here
