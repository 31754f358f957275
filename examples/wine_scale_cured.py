"""Predicts the alcohol of Italian wines from their chemistry.

The cured twin of `wine_scale_nan.py`, which feeds milligrams a litre beside ratios and diverges at a rate of 0.01.

Changed: every measurement is standardised with the mean and deviation of the training rows. The rate is the same.
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

mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
x_train = (x_train - mean) / deviation
x_test = (x_test - mean) / deviation

# Linear regression by gradient descent.
model = keras.Sequential([keras.Input((x_train.shape[1],)), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")

history = model.fit(x_train, y_train, batch_size=16, epochs=25, verbose=0)
for epoch in range(0, 25, 5):
    print(f"epoch {epoch:2d}  loss {history.history['loss'][epoch]:.4g}")

error = np.abs(model.predict(x_test, verbose=0)[:, 0] - y_test)
print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"mean absolute error in % of alcohol: {error.mean():.3f}")
