"""Standardises the pixels of handwritten digits, divides by zero, and trains a network that is dead from the start.

Three pixels are blank in all 1797 images. Their standard deviation is 0, `0 / 0` is NaN, and so every row of the data
holds three NaNs. On a CPU the loss may stay a plain number all the same (TensorFlow's fused relu turns NaN into 0)
while the weights of the first layer are NaN: the network then calls every digit the same.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(4)

images, labels = load_digits(return_X_y=True)
images = images.astype("float32")

# Every pixel to mean 0 and deviation 1.
mean = images.mean(axis=0)
deviation = images.std(axis=0)
with np.errstate(invalid="ignore"):  # NumPy warns here and nobody knew why
    images = (images - mean) / deviation

num_train = 1400
train = tf.data.Dataset.from_tensor_slices((images[:num_train], labels[:num_train])).batch(64).prefetch(2)
test = tf.data.Dataset.from_tensor_slices((images[num_train:], labels[num_train:])).batch(64)

model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(0.002),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

history = model.fit(train, epochs=8, verbose=2)
_, accuracy = model.evaluate(test, verbose=0)

print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test accuracy: {accuracy:.3f}")
