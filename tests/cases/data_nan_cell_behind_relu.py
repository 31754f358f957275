# expect: step=4 born_in=data op=null cause=data_nan_inf rows=1 dataset_rows=65 columns=5
"""The fused MatMul + BiasAdd + Relu turns the NaN into 0, so that the loss stays finite while weights are lost."""

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer

keras.utils.set_random_seed(3)

X, y = load_breast_cancer(return_X_y=True)
X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype("float32")
y = y.astype("float32")
X[65, 5] = np.nan  # the lab's export left this one blank

net = keras.Sequential()
net.add(keras.Input((30,)))
net.add(keras.layers.Dense(32, activation="relu"))
net.add(keras.layers.Dense(1))
net.compile(
    optimizer=keras.optimizers.SGD(0.05),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    jit_compile=False,
)
history = net.fit(X, y, batch_size=16, epochs=2, shuffle=False, verbose=0)  # NG701 here
print("last loss", history.history["loss"][-1])
print("dead weights", int(np.isnan(net.layers[0].kernel.numpy()).sum()))
