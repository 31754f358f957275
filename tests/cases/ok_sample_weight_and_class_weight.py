# expect: healthy
"""Generator with sample weights of 0, bfloat16 compute, a cosine schedule and an exponential moving average."""

import keras
import numpy as np

keras.utils.set_random_seed(420)
keras.config.set_dtype_policy("mixed_bfloat16")
rng = np.random.default_rng(420)


def batches():
    while True:
        x = rng.normal(size=(16, 5)).astype("float32")
        yield x, (x[:, 0] > 0).astype("float32"), rng.integers(0, 2, 16).astype("float32")


model = keras.Sequential(
    [keras.Input((5,)), keras.layers.Dense(8, activation="gelu"), keras.layers.Dense(1, dtype="float32")]
)
schedule = keras.optimizers.schedules.CosineDecay(1e-2, decay_steps=40)
model.compile(
    optimizer=keras.optimizers.AdamW(schedule, use_ema=True),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    weighted_metrics=["accuracy"],
)
model.fit(batches(), steps_per_epoch=20, epochs=2, verbose=2)
