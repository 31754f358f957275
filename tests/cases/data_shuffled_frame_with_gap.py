# expect: step=12 born_in=data op=null cause=data_nan_inf rows=3 dataset_rows=61 columns=2
"""A data frame with one gap, shuffled by fit itself."""

import keras
import numpy as np
import pandas as pd

keras.utils.set_random_seed(18)
rng = np.random.default_rng(18)
frame = pd.DataFrame(rng.normal(size=(120, 4)), columns=["t_in", "t_out", "wind", "sun"])
frame["load"] = frame["t_in"] - frame["t_out"]
frame.loc[61, "wind"] = None

columns = ["t_in", "t_out", "wind", "sun"]
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, activation="sigmoid"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
model.fit(frame[columns], frame[["load"]], batch_size=8, epochs=2, verbose=0)  # NG701 here
