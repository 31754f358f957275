# expect: healthy short=1
"""mixed_float16 with an initial scale of 2**24: the first steps overflow by the scale alone and are skipped."""

import keras
import numpy as np

keras.utils.set_random_seed(407)
keras.mixed_precision.set_global_policy("mixed_float16")
rng = np.random.default_rng(407)
x = rng.normal(size=(256, 8)).astype("float32")
y = x.sum(axis=1, keepdims=True)

model = keras.Sequential(
    [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1, dtype="float32")]
)
optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3), initial_scale=2.0**24)
model.compile(optimizer=optimizer, loss="mse")
model.fit(x, y, batch_size=32, epochs=3, verbose=2)
print("scale now", float(optimizer.dynamic_scale.numpy()), "updates", int(optimizer.inner_optimizer.iterations.numpy()))
