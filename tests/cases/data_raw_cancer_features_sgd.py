# expect: step=2 born_in=divergence cause=data_scale
"""Tumour areas of 2500 beside smoothness of 0.1, straight into SGD at the default rate."""

import keras
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

keras.utils.set_random_seed(0)

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0)

model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mean_squared_error")
model.fit(X_train, y_train, epochs=3, batch_size=32, verbose=2)
