# expect: step=0 born_in=data op=null cause=data_bad_preprocessing rows=null columns=0,32,39
"""Standardising the digits: three pixels of the corner are always 0, and so is their deviation."""

import numpy as np
from sklearn.datasets import load_digits
from tensorflow import keras

np.seterr(all="ignore")
keras.utils.set_random_seed(5)

digits = load_digits()
X = digits.data.astype("float32")
X = (X - X.mean(axis=0)) / X.std(axis=0)

model = keras.models.Sequential(
    [
        keras.layers.Input(shape=(64,)),
        keras.layers.Dense(32, activation="tanh"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(loss="sparse_categorical_crossentropy", optimizer="rmsprop")
for epoch in range(2):
    for start in range(0, 640, 64):
        loss = model.train_on_batch(X[start : start + 64], digits.target[start : start + 64])  # NG702 here
    print(epoch, loss)
