# expect: step=0 born_in=data op=null cause=data_nan_inf rows=3 dataset_rows=3 columns=0,1,2,3 short=1
"""Penguin species from the four measurements; nobody dropped the birds that were not measured."""

import keras
from palmerpenguins import load_penguins

keras.utils.set_random_seed(1)

penguins = load_penguins()
features = penguins[["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]]
features = (features - features.mean()) / features.std()
species = penguins["species"].astype("category").cat.codes

model = keras.Sequential(
    [
        keras.Input((4,)),
        keras.layers.Dense(16, activation="tanh"),
        keras.layers.Dense(3),
    ]
)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(features, species, batch_size=32, epochs=2, shuffle=False, verbose=2)  # NG701 here
