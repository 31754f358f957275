# expect: healthy
"""Convolutions with BatchNormalization and Dropout on blank and full images."""

import keras
from sklearn.datasets import load_digits

keras.utils.set_random_seed(411)
images = load_digits().images[:256, :, :, None].astype("float32") / 16.0
labels = load_digits().target[:256]
images[:16] = 0.0

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(8, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.Activation("relu"),
        keras.layers.SpatialDropout2D(0.2),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dropout(0.4),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(images, labels, batch_size=16, epochs=2, shuffle=False, verbose=2, callbacks=[keras.callbacks.TerminateOnNaN()])
print(model.evaluate(images, labels, verbose=0))
