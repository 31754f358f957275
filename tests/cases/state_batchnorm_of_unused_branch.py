# expect: step=2 born_in=data|forward cause=batchnorm_poisoned rows=3 dataset_rows=51 seen_in=state short=1
"""Two heads, of which only one is trained; the other head's BatchNormalization sees a missing value."""

import keras
import numpy as np

keras.utils.set_random_seed(351)
rng = np.random.default_rng(351)
age = rng.normal(size=(96, 4)).astype("float32")
blood = rng.normal(size=(96, 3)).astype("float32")
blood[51, 2] = np.nan
risk = age.sum(axis=1, keepdims=True)

age_in = keras.Input((4,), name="age")
blood_in = keras.Input((3,), name="blood")
main = keras.layers.Dense(1, name="main")(keras.layers.Dense(8, activation="tanh")(age_in))
side = keras.layers.Dense(1, name="side")(keras.layers.BatchNormalization(name="blood_norm")(blood_in))

model = keras.Model({"age": age_in, "blood": blood_in}, {"main": main, "side": side})
model.compile(optimizer="adam", loss={"main": "mse", "side": None})
model.fit({"age": age, "blood": blood}, {"main": risk, "side": risk}, batch_size=24, epochs=2, shuffle=False, verbose=2)  # NG605 here
