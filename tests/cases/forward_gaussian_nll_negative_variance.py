# expect: step=0 born_in=forward op=Log forward_op=null cause=domain_error
"""Gaussian likelihood whose variance is a linear output."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(57)
rng = np.random.default_rng(57)
x = rng.normal(size=(120, 3)).astype("float32")
y = (x[:, :1] + rng.normal(0, 0.3, (120, 1))).astype("float32")


class GaussianNLL(keras.losses.Loss):
    def call(self, y_true, y_pred):
        mean, variance = y_pred[:, :1], y_pred[:, 1:]
        return ops.mean(
            0.5
            * ops.log(variance)  # NG102 here
            + 0.5 * ops.square(y_true - mean) / ops.maximum(variance, 1e-3)
        )


inputs = keras.Input((3,))
hidden = keras.layers.Dense(8, activation="relu")(inputs)
outputs = keras.layers.Concatenate()([keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(hidden)])
model = keras.Model(inputs, outputs)
model.compile(optimizer=keras.optimizers.Lion(1e-3), loss=GaussianNLL())
for i in range(0, 120, 40):
    print(model.train_on_batch(x[i : i + 40], y[i : i + 40], return_dict=True))
