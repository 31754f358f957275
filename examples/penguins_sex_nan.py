"""Predicts a penguin's sex from its measurements, and goes NaN from labels that nobody recorded.

Eleven birds have no sex in the table. `Series.map` leaves them as NaN, a float that passes for a label. Their
measurements are filled in with care; their labels are not, and one of them is enough to make the loss and every weight
NaN.
"""

import keras
import numpy as np
from palmerpenguins import load_penguins

MEASUREMENTS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]

keras.utils.set_random_seed(3)

penguins = load_penguins()
penguins = penguins.sample(frac=1.0, random_state=3)

# The sexes differ in size within each species, so the species goes in as well.
table = penguins[MEASUREMENTS].fillna(penguins[MEASUREMENTS].median())
table = (table - table.mean()) / table.std()
for name in ("Adelie", "Chinstrap", "Gentoo"):
    table[name] = (penguins["species"] == name).astype("float32")

labels = penguins["sex"].map({"female": 0.0, "male": 1.0})

x = table.to_numpy("float32")
y = labels.to_numpy("float32")
num_train = int(0.8 * len(x))

inputs = keras.Input((x.shape[1],))
hidden = keras.layers.Dense(24, activation="relu")(inputs)
hidden = keras.layers.Dropout(0.1)(hidden)
outputs = keras.layers.Dense(1)(hidden)
model = keras.Model(inputs, outputs)
model.compile(
    optimizer=keras.optimizers.Adam(0.01),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
)

history = model.fit(x[:num_train], y[:num_train], batch_size=32, epochs=20, verbose=0)
for epoch, loss in enumerate(history.history["loss"]):
    if epoch % 5 == 0:
        print(f"epoch {epoch:2d}  loss {loss:.4f}")

predicted = model.predict(x[num_train:], verbose=0)[:, 0] > 0
accuracy = np.mean(predicted == (y[num_train:] > 0.5))

print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test accuracy: {accuracy:.3f}")
