# expect: step=3 born_in=divergence cause=lr_too_high short=1
"""A learning rate of 2 on standardised data."""

import keras
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

keras.utils.set_random_seed(301)
X, y = load_diabetes(return_X_y=True)
X = StandardScaler().fit_transform(X)
y = (y - y.mean()) / y.std()

model = keras.Sequential(
    [
        keras.Input((10,)),
        keras.layers.Dense(32, activation="elu"),
        keras.layers.Dense(16, activation="elu"),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer=keras.optimizers.SGD(learning_rate=2.0), loss="mse", metrics=["mae"])
model.fit(X, y, epochs=3, batch_size=32, validation_split=0.1, verbose=2)
