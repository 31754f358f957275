# expect: step=6 born_in=data op=null cause=data_nan_inf|data_bad_preprocessing rows=2 columns=2
"""A generator over text records; `1,204.5` does not parse and becomes NaN."""

import io

import keras
import numpy as np
import pandas as pd

keras.utils.set_random_seed(4)
rng = np.random.default_rng(4)

lines = ["length;width;weight;price"]
for i in range(200):
    length, width = rng.uniform(1, 3), rng.uniform(1, 2)
    weight = "1,204.5" if i == 98 else f"{length * width:.2f}"
    lines.append(f"{length:.2f};{width:.2f};{weight};{length * width * 4:.2f}")

table = pd.read_csv(io.StringIO("\n".join(lines)), sep=";")
table["weight"] = pd.to_numeric(table["weight"], errors="coerce")


def batches(frame, size=16):
    while True:
        for start in range(0, len(frame) - size + 1, size):
            part = frame.iloc[start : start + size]
            yield part[["length", "width", "weight"]].to_numpy("float32"), part["price"].to_numpy("float32")[:, None]


model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(learning_rate=0.01), loss="mae")
model.fit(  # NG701|NG702 here
    batches(table),
    steps_per_epoch=12,
    epochs=2,
    verbose=0,
)
