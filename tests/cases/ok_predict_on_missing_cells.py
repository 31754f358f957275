# expect: healthy short=1
"""Training on complete rows; afterwards evaluate and predict on rows with gaps, which gives NaN and is not training."""

import keras
import numpy as np
from palmerpenguins import load_penguins

keras.utils.set_random_seed(416)
columns = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]
penguins = load_penguins()
complete = penguins.dropna(subset=columns + ["body_mass_g"])
mean, deviation = complete[columns].mean(), complete[columns].std()

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
model.fit((complete[columns] - mean) / deviation, complete["body_mass_g"] / 1000, epochs=2, verbose=2)

everything = ((penguins[columns] - mean) / deviation).to_numpy("float32")
print("missing predictions:", int(np.isnan(model.predict(everything, verbose=0)).sum()))
print("loss with gaps:", model.evaluate(everything, penguins["body_mass_g"].to_numpy("float32") / 1000, verbose=0))
