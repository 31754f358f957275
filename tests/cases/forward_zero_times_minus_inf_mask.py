# expect: step=0 born_in=forward op=Mul forward_op=null cause=all_masked_softmax rows=null
"""An additive mask as (1 - mask) * -inf, which is NaN wherever the mask is 1."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(72)
rng = np.random.default_rng(72)

series = rng.normal(size=(64, 10, 4)).astype("float32")
mask = np.ones((64, 10), "float32")
mask[:, 8:] = 0.0
target = series[:, :8].mean(axis=(1, 2))

x_in, mask_in = keras.Input((10, 4)), keras.Input((10,))
scores = keras.layers.Dense(1)(x_in)[..., 0]


@keras.saving.register_keras_serializable()
class AdditiveMask(keras.layers.Layer):
    def call(self, scores, mask):
        return scores + (1.0 - mask) * float("-inf")  # NG204 here


weights = keras.layers.Softmax()(AdditiveMask()(scores, mask_in))
pooled = ops.sum(weights[..., None] * x_in, axis=1)
model = keras.Model([x_in, mask_in], keras.layers.Dense(1)(pooled))
model.compile(optimizer="sgd", loss="mse")
model.fit([series, mask], target, batch_size=16, verbose=0)
