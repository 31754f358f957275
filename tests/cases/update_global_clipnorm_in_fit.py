# expect: step=2 born_in=update|backward op=Square|L2Loss cause=clip_spreads_nan rows=11 dataset_rows=75
"""The same through Keras's `global_clipnorm`, with a Poisson rate that is exp of a linear output."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(332)
rng = np.random.default_rng(332)
x = rng.normal(size=(128, 4)).astype("float32")
y = rng.poisson(2.0, (128, 1)).astype("float32")
x[75] = 15.0

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
model.compile(
    optimizer=keras.optimizers.SGD(0.01, global_clipnorm=1.0),
    loss=lambda y_true, log_rate: ops.mean(ops.exp(log_rate) - y_true * log_rate),
)
model.fit(x, y, batch_size=32, epochs=1, shuffle=False, verbose=0)  # NG604 here
