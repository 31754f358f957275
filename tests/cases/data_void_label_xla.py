# expect: step=2 born_in=data|forward cause=label_out_of_range rows=7 dataset_rows=71 short=1
"""Pixels labelled 255 ("void") in a 4-class problem; under XLA the loss is NaN instead of an error."""

import keras
import numpy as np

keras.utils.set_random_seed(14)
rng = np.random.default_rng(14)

pixels = rng.normal(size=(192, 6)).astype("float32")
classes = rng.integers(0, 4, 192)
classes[71] = 255

model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(4)])
model.compile(
    optimizer="adam",
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    jit_compile=True,
)
model.fit(pixels, classes, batch_size=32, epochs=1, shuffle=False, verbose=2)  # NG707 here
