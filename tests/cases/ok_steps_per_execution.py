# expect: healthy
"""Several steps per execution, gradient accumulation and XLA together."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(414)
rng = np.random.default_rng(414)
x = rng.normal(size=(256, 6)).astype("float32")
y = rng.integers(0, 3, 256)
dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(256).batch(16, drop_remainder=True).prefetch(1)

model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(12, activation="relu"), keras.layers.Dense(3)])
model.compile(
    optimizer=keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    steps_per_execution=4,
    jit_compile=True,
)
model.fit(dataset, epochs=2, verbose=2)
