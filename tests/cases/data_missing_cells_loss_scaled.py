# expect: step=5 born_in=data op=null cause=data_nan_inf rows=13 dataset_rows=93 columns=6
"""fit under mixed_float16: the loss-scale optimizer skips the bad batch without a word, the metrics stay NaN."""

import keras
import numpy as np
from sklearn.datasets import load_wine

keras.utils.set_random_seed(17)
keras.mixed_precision.set_global_policy("mixed_float16")
X, y = load_wine(return_X_y=True)
X = ((X - X.mean(0)) / X.std(0)).astype("float32")
X[93, 6] = np.nan

model = keras.Sequential(
    [
        keras.Input((13,)),
        keras.layers.Dense(16, activation="tanh"),
        keras.layers.Dense(3),
        keras.layers.Activation("softmax", dtype="float32"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
model.fit(X, y, batch_size=16, epochs=2, shuffle=False, verbose=0)  # NG701 here
