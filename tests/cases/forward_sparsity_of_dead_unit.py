# expect: step=0 born_in=forward op=RealDiv forward_op=null cause=div_by_zero rows=null
"""Sparse autoencoder: KL(rho || mean activation) on relu units, one of which is silent on the whole batch."""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(50)
X = (load_digits().data[:320] / 16.0).astype("float32")


@keras.saving.register_keras_serializable()
class Sparsity(keras.regularizers.Regularizer):
    def __init__(self, rho=0.05):
        self.rho = rho

    def __call__(self, activation):
        mean = tf.clip_by_value(tf.reduce_mean(activation, axis=0), 0.0, 0.99)
        kl = self.rho * tf.math.log(self.rho / mean)  # NG105 here
        kl += (1 - self.rho) * tf.math.log((1 - self.rho) / (1 - mean))
        return 1e-3 * tf.reduce_sum(kl)

    def get_config(self):
        return {"rho": self.rho}


autoencoder = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(
            48,
            activation="relu",
            bias_initializer=keras.initializers.RandomNormal(-0.5, 0.5, seed=3),
            activity_regularizer=Sparsity(),
        ),
        keras.layers.Dense(64, activation="sigmoid"),
    ]
)
autoencoder.compile(optimizer="adadelta", loss="binary_crossentropy")
autoencoder.fit(X, X, batch_size=64, epochs=1, verbose=0)
