# expect: step=5 born_in=data op=null cause=data_missing_labels rows=11
"""Blood pressure of patients from a PyDataset; one follow-up visit never took place."""

import math

import keras
import numpy as np
from sklearn.datasets import load_diabetes

keras.utils.set_random_seed(9)

X, y = load_diabetes(return_X_y=True)
y = (y - y.mean()) / y.std()
y[5 * 32 + 11] = np.nan


class Patients(keras.utils.PyDataset):
    def __init__(self, x, y, batch_size, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y, self.batch_size = x, y, batch_size

    def __len__(self):
        return math.ceil(len(self.x) / self.batch_size)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.x[part] * 20.0, self.y[part]


reg = keras.Sequential([keras.Input((10,)), keras.layers.Dense(24, activation="relu"), keras.layers.Dense(1)])
reg.compile(optimizer="adam", loss="mse")
reg.fit(Patients(X, y, 32), epochs=1, shuffle=False, verbose=0)  # NG703 here
