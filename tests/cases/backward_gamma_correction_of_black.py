# expect: step=1 born_in=backward op=Pow|Mul forward_op=Pow cause=pow_grad_at_zero rows=0 dataset_rows=16 short=1
"""Gamma correction with x ** (1/2.2) after a relu; a black image is exactly 0."""

import keras
import numpy as np

keras.utils.set_random_seed(211)
rng = np.random.default_rng(211)
linear = rng.uniform(0.1, 1, (64, 12)).astype("float32")
linear[16] = 0.0
display = linear**0.5


class ToneMap(keras.layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return (x * self.gain) ** (1 / 2.2)  # NG302 here


model = keras.Sequential([keras.Input((12,)), ToneMap()])
model.compile(optimizer="adam", loss="mean_absolute_error")
for start in range(0, 64, 16):
    print(model.train_on_batch(linear[start : start + 16], display[start : start + 16]))  # 4 batches
