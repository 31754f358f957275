"""The training of `penguins_nan.py`, kept alive: the batches with the birds that were never measured are skipped.

Nothing but the two callbacks is new. The bad batches go to `penguins-quarantine` with their rows and the reason, and
what the guard did is told on stderr and stands in the logs. Killed and started again, it goes on where it was.
"""

import keras
from palmerpenguins import load_penguins
from sklearn.model_selection import train_test_split

import nanguard

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

guard = nanguard.Guard(quarantine="penguins-quarantine")
checkpoint = nanguard.Checkpoint("penguins-checkpoints")
history = model.fit(x_train, y_train, batch_size=32, epochs=15, verbose=2, callbacks=[guard, checkpoint])

print(f"skipped: {sum(history.history['nanguard/skipped']):.0f} of {15 * -(-len(x_train) // 32)} steps")
print(f"final loss: {history.history['loss'][-1]:.4f}")
