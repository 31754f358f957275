"""Tells three species of penguin apart by four measurements, of which some are missing, in training and in use.

The training of `penguins_nan.py`, with every bird kept: the model itself fills what was not measured, with what the
bird's other measurements let one expect, and is told which cells were filled. What it has learnt of the data is saved
with it, so that the served model takes a bird with a missing measurement as well.
"""

import tempfile

import keras
import numpy as np
import tensorflow as tf
from palmerpenguins import load_penguins
from sklearn.model_selection import train_test_split

import nanguard

MEASUREMENTS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]

keras.utils.set_random_seed(7)

penguins = load_penguins()
species = penguins["species"].astype("category")
x = penguins[MEASUREMENTS].to_numpy("float32")
# Two birds were never measured; a tenth of the other cells is lost on purpose.
x[np.random.default_rng(7).random(x.shape) < 0.1] = np.nan

x_train, x_test, y_train, y_test = train_test_split(
    x, species.cat.codes.to_numpy("int32"), test_size=0.25, random_state=7, stratify=species
)

cleaner = nanguard.clean.Cleaner(impute="gaussian", outliers="clip", indicators=True)
cleaner.adapt(x_train)
normalization = keras.layers.Normalization()
normalization.adapt(cleaner(x_train))

model = keras.Sequential(
    [
        keras.Input((len(MEASUREMENTS),)),
        cleaner,
        normalization,
        keras.layers.Dense(16, activation="tanh"),
        keras.layers.Dense(species.cat.categories.size, activation="softmax"),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(0.01),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
)

history = model.fit(x_train, y_train, batch_size=32, epochs=15, verbose=2)
_, accuracy = model.evaluate(x_test, y_test, verbose=0)

# As it is served: without nanguard, Keras or Python.
with tempfile.TemporaryDirectory() as folder:
    model.export(folder, verbose=False)
    served = tf.saved_model.load(folder)
    answer = served.serve(tf.constant([[np.nan, 18.0, 195.0, np.nan]])).numpy()[0]

print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test accuracy: {accuracy:.3f}")
print(f"a bird of unknown bill length and mass: {species.cat.categories[answer.argmax()]}, {answer.max():.2f}")
