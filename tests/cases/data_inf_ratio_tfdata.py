# expect: step=4 born_in=data op=null cause=data_nan_inf|data_bad_preprocessing rows=9,22 dataset_rows=137,150 columns=3
"""A ratio feature made in pandas; two customers have no visits, and visits is the denominator."""

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

keras.utils.set_random_seed(11)
rng = np.random.default_rng(11)

n = 320
frame = pd.DataFrame(
    {
        "age": rng.normal(45, 12, n),
        "income": rng.lognormal(3, 0.4, n),
        "visits": rng.integers(1, 30, n),
        "orders": rng.integers(1, 9, n),
    }
)
frame.loc[[137, 150], "visits"] = 0
frame["conversion"] = frame["orders"] / frame["visits"]
target = (frame["orders"] * 3 + frame["age"] / 10).to_numpy("float32")

inputs = frame[["age", "income", "orders", "conversion"]].to_numpy("float32")
inputs[:, :3] = (inputs[:, :3] - inputs[:, :3].mean(0)) / inputs[:, :3].std(0)

ds = tf.data.Dataset.from_tensor_slices((inputs, target)).batch(32).prefetch(2)

model = keras.Sequential([keras.layers.Dense(8, activation="elu"), keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mse")
model.fit(ds, epochs=1, verbose=2)  # NG701|NG702 here
