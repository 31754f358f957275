# expect: step=0 born_in=update op=RealDiv|DivNoNan cause=div_by_zero rows=null
"""Adam with epsilon=0: pixels that are always 0 have gradient 0, and 0 / sqrt(0) is NaN."""

import keras
import numpy as np
from sklearn.datasets import load_digits

keras.utils.set_random_seed(341)
digits = load_digits()
X = (digits.data / 16.0).astype(np.float32)

model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
model.compile(
    optimizer=keras.optimizers.Adam(1e-3, epsilon=0.0),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(X, digits.target, batch_size=128, epochs=1, verbose=0)  # NG608 here
