# expect: step=4 born_in=data op=null cause=data_nan_inf rows=8 columns=3
"""A plain eager loop over a shuffled data set of breast cancer measurements with two unread cells."""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import MinMaxScaler

keras.utils.set_random_seed(19)
X, y = load_breast_cancer(return_X_y=True)
X = MinMaxScaler().fit_transform(X)[:256, :6].astype("float32")
y = y[:256].astype("float32")[:, None]
X[[40, 41], 3] = np.nan

dataset = tf.data.Dataset.from_tensor_slices((X, y)).shuffle(256, seed=3).batch(16)
model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
optimizer = keras.optimizers.Adam(1e-2)
loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)

for features, labels in dataset:
    with tf.GradientTape() as tape:
        logits = model(features, training=True)  # NG701 here
        loss = loss_fn(labels, logits)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    print(float(loss))
