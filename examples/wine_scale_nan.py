"""Predicts the alcohol of Italian wines from their chemistry, and diverges within a few steps.

Proline is given in milligrams a litre (278 to 1680), hue as a ratio (0.5 to 1.7). With inputs in the hundreds a rate
of 0.01 overshoots, every step further than the one before, until the squared error leaves float32. Where the first
infinite number appears says nothing: the run was lost from the first step.
"""

import keras
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

keras.utils.set_random_seed(9)

wine = load_wine(as_frame=True)
chemistry = wine.data.drop(columns="alcohol")
alcohol = wine.data["alcohol"]

x_train, x_test, y_train, y_test = train_test_split(
    chemistry.to_numpy("float32"),
    alcohol.to_numpy("float32"),
    test_size=0.25,
    random_state=9,
)

# Linear regression by gradient descent.
model = keras.Sequential([keras.Input((x_train.shape[1],)), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")

history = model.fit(x_train, y_train, batch_size=16, epochs=25, verbose=0)
for epoch in range(0, 25, 5):
    print(f"epoch {epoch:2d}  loss {history.history['loss'][epoch]:.4g}")

error = np.abs(model.predict(x_test, verbose=0)[:, 0] - y_test)
print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"mean absolute error in % of alcohol: {error.mean():.3f}")
