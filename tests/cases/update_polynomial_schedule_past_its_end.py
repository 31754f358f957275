# expect: step=21 born_in=update op=Pow forward_op=null cause=lr_schedule_nan rows=null short=1
"""The "poly" schedule of segmentation papers, (1 - step / total) ** 0.9, trained for longer than `total`."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(321)
rng = np.random.default_rng(321)
x = rng.normal(size=(256, 4)).astype("float32")
y = x.sum(axis=1, keepdims=True)


class Poly(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, base, total):
        self.base, self.total = base, total

    def __call__(self, step):
        progress = tf.cast(step, tf.float32) / self.total
        return self.base * tf.pow(1.0 - progress, 0.9)  # NG603 here

    def get_config(self):
        return {"base": self.base, "total": self.total}


model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.Adam(Poly(0.01, 20)), loss="mse")
model.fit(x, y, batch_size=32, epochs=4, verbose=0)
