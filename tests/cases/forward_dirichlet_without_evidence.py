# expect: step=0 born_in=forward op=Lgamma forward_op=null cause=domain_error
"""Evidential classification with alpha = relu(logits); the + 1 was forgotten, and lgamma(0) is Inf."""

import keras
import tensorflow as tf
from sklearn.datasets import load_iris

keras.utils.set_random_seed(56)
X, y = load_iris(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)


def dirichlet_nll(y_true, evidence):
    one_hot = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), 3)
    strength = tf.reduce_sum(evidence, axis=1, keepdims=True) + 1e-3
    normaliser = (
        tf.reduce_sum(tf.math.lgamma(evidence), axis=1, keepdims=True)  # NG111 here
        - tf.math.lgamma(strength)
    )
    return tf.reduce_mean(normaliser - tf.reduce_sum(one_hot * tf.math.log(evidence + 1e-3), axis=1, keepdims=True))


model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3, activation="relu")])
model.compile(optimizer="adam", loss=dirichlet_nll)
model.fit(X, y, batch_size=30, epochs=1, verbose=2)
