# expect: step=2 born_in=backward op=Reciprocal|Mul|Inv|RealDiv|Rsqrt forward_op=Acos cause=acos_grad_at_one rows=5 dataset_rows=37
"""Rotation angle from acos(clip(cos, -1, 1)): where prediction and truth agree, the slope is infinite."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(231)
rng = np.random.default_rng(231)
x = rng.normal(size=(64, 2)).astype("float32")
x[37] = [0.0, 0.0]
truth = np.sign(rng.normal(size=(64, 1))).astype("float32") * 0.5
truth[37] = 1.0


def angle_error(y_true, y_pred):
    cosine = ops.clip(y_true * y_pred, -1.0, 1.0)
    return ops.mean(ops.arccos(cosine), axis=-1)  # NG304 here


inputs = keras.Input((2,))
outputs = ops.cos(keras.layers.Dense(1, use_bias=False)(inputs))
model = keras.Model(inputs, outputs)
model.compile(optimizer=keras.optimizers.Adagrad(0.01), loss=angle_error)
model.fit(x, truth, batch_size=16, epochs=1, shuffle=False, verbose=0)
