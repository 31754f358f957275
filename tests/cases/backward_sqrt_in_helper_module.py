# expect: step=1 born_in=backward op=SqrtGrad forward_op=Sqrt cause=sqrt_norm_grad_at_zero rows=10 dataset_rows=30 file=pieces/distances.py
"""The distance comes from a helper module in a sub-folder; one forecast starts exactly at its target."""

import keras
import numpy as np
from pieces.distances import euclidean

keras.utils.set_random_seed(206)
rng = np.random.default_rng(206)
x = rng.normal(size=(60, 4)).astype("float32")
y = rng.normal(size=(60, 2)).astype("float32")
x[30], y[30] = 0.0, 0.0

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False)])
model.compile(optimizer=keras.optimizers.Adam(0.01), loss=euclidean)
model.fit(x, y, batch_size=20, epochs=2, shuffle=False, verbose=0)
