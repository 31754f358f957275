# expect: step=2 born_in=data op=null cause=data_missing_labels rows=1,8,9 dataset_rows=65,72,73
"""Multi-task assay: unmeasured targets are NaN and get weight 0. NaN times 0 is NaN."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(7)
rng = np.random.default_rng(7)

X = rng.normal(size=(256, 10)).astype("float32")
Y = (X @ rng.normal(size=(10, 2)) + 0.1 * rng.normal(size=(256, 2))).astype("float32")
M = np.ones_like(Y)
for row, task in [(65, 0), (72, 1), (73, 0)]:
    Y[row, task] = np.nan
    M[row, task] = 0.0

x_in = keras.Input((10,))
hidden = keras.layers.Dense(16, activation="gelu")(x_in)
model = keras.Model(x_in, keras.layers.Dense(2)(hidden))


def masked_mse(y_and_mask, y_pred):
    y_true, mask = y_and_mask[:, :2], y_and_mask[:, 2:]
    return ops.sum(mask * ops.square(y_true - y_pred), axis=-1) / ops.maximum(ops.sum(mask, axis=-1), 1.0)


model.compile(optimizer=keras.optimizers.Adam(0.01), loss=masked_mse)
model.fit(X, np.concatenate([Y, M], axis=1), batch_size=32, epochs=2, shuffle=False, verbose=2)  # NG703 here
