# expect: step=3 born_in=backward op=Pow|Mul forward_op=Pow cause=pow_grad_at_zero rows=4 dataset_rows=100
"""Focal loss with gamma = 0.5: (1 - p) ** 0.5 at p = 1, reached by one sample far from the boundary."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(212)
rng = np.random.default_rng(212)
X = rng.normal(size=(192, 2)).astype("float32")
y = (X.sum(axis=1) > 0).astype("float32")[:, None]
X[100], y[100] = [60.0, 60.0], 1.0


def focal_loss(gamma=0.5, eps=1e-7):
    def loss(y_true, y_pred):
        p_t = y_true * y_pred + (1.0 - y_true) * (1.0 - y_pred)
        weight = tf.pow(1.0 - p_t, gamma)  # NG302 here
        return -tf.reduce_mean(weight * tf.math.log(p_t + eps), axis=-1)

    return loss


model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")])
model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), loss=focal_loss())
model.fit(X, y, batch_size=32, epochs=1, shuffle=False, verbose=2)
