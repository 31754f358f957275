# expect: step=5 born_in=forward op=RealDiv forward_op=null cause=div_by_zero rows=2,9 dataset_rows=82,89
"""Mean absolute percentage error by hand; the river fell dry on two days."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(44)
rng = np.random.default_rng(44)

inputs = rng.uniform(0, 1, (160, 3)).astype("float32")
flow = (10 * inputs[:, :1] + 2 + rng.uniform(0, 1, (160, 1))).astype("float32")
flow[[82, 89]] = 0.0

percentage = lambda y_true, y_pred: 100.0 * ops.mean(ops.abs((y_true - y_pred) / y_true), axis=-1)  # noqa: E731  # NG105 here

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(12, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.RMSprop(1e-3), loss=percentage, jit_compile=True)
model.fit(inputs, flow, batch_size=16, epochs=1, shuffle=False, verbose=2)
