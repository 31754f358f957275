# expect: step=0 born_in=forward op=Log forward_op=null cause=domain_error
"""loss="poisson" on a linear output: the rate is negative for some samples."""

import keras
import numpy as np

keras.utils.set_random_seed(55)
rng = np.random.default_rng(55)
X = rng.normal(size=(200, 5)).astype("float32")
y = rng.poisson(2.0, size=(200, 1)).astype("float32")

model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(10, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="poisson")
model.fit(X, y, batch_size=50, epochs=2, verbose=0)  # NG102 here
