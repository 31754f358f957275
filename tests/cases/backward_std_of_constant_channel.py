# expect: step=2 born_in=backward op=SqrtGrad forward_op=Sqrt cause=sqrt_norm_grad_at_zero rows=9 dataset_rows=41
"""Contrast of a feature map by reduce_std; a black frame has the same value everywhere."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(203)
rng = np.random.default_rng(203)
frames = rng.uniform(0, 1, (96, 6, 6, 1)).astype("float32")
frames[41] = 0.0
contrast = frames.std(axis=(1, 2, 3))[:, None]


def spread(maps):
    return tf.math.reduce_std(maps, axis=[1, 2])  # NG301 here


model = keras.Sequential(
    [
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(3, 3, use_bias=False, activation="tanh"),
        keras.layers.Lambda(spread),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer=keras.optimizers.Nadam(1e-3), loss="mse")
model.fit(frames, contrast, batch_size=16, epochs=1, shuffle=False, verbose=0)
