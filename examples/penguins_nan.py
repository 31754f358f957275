"""Tells three species of penguin apart by four measurements, and goes NaN in the first epoch.

Two birds of the table were never measured: their cells are NaN. pandas skips NaN when it takes the mean and the
standard deviation, so the standardised table looks right and still holds the two birds, and the batch that meets the
first of them makes every weight NaN.
"""

import keras
from palmerpenguins import load_penguins
from sklearn.model_selection import train_test_split

MEASUREMENTS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]

keras.utils.set_random_seed(7)

# One row per bird: 344 birds from three islands of the Palmer Archipelago.
penguins = load_penguins()
features = penguins[MEASUREMENTS]
species = penguins["species"].astype("category")

# Put millimetres and grams on one scale.
features = (features - features.mean()) / features.std()

x_train, x_test, y_train, y_test = train_test_split(
    features.to_numpy("float32"),
    species.cat.codes.to_numpy("int32"),
    test_size=0.25,
    random_state=7,
    stratify=species,
)

model = keras.Sequential(
    [
        keras.Input((len(MEASUREMENTS),)),
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

print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test accuracy: {accuracy:.3f}")
