# expect: step=4 born_in=backward op=SqrtGrad|RealDiv forward_op=Sqrt cause=sqrt_norm_grad_at_zero rows=0 dataset_rows=64
"""compute_loss of a model subclass takes the norm of the residual vector; one residual is exactly zero."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(207)
rng = np.random.default_rng(207)
x = rng.normal(size=(96, 3)).astype("float32")
y = (x * 0.5 + rng.normal(0, 0.1, (96, 3))).astype("float32")
x[64] = y[64] = 0.0


class Displacement(keras.Model):
    def __init__(self):
        super().__init__()
        self.matrix = keras.layers.Dense(3, use_bias=False)

    def call(self, x):
        return self.matrix(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.norm(y - y_pred, axis=-1))  # NG301 here


model = Displacement()
model.compile(optimizer=keras.optimizers.Adamax(1e-2))
model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=2)
