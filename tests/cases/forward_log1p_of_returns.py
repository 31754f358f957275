# expect: step=2 born_in=forward|data op=Log1p forward_op=null cause=log_of_zero|data_bad_preprocessing rows=0 dataset_rows=32
"""Log returns inside a layer; a delisted share lost 100 %, so that its return is -1."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(33)
rng = np.random.default_rng(33)

returns = rng.normal(0.0, 0.02, (96, 15)).astype("float32")
returns[32, 9] = -1.0
volatility = returns.std(axis=1, keepdims=True)


@keras.saving.register_keras_serializable()
class LogReturns(keras.layers.Layer):
    def call(self, x):
        return ops.log1p(x)  # NG104|NG702 here


model = keras.Sequential([keras.Input((15,)), LogReturns(), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.01), "mse")

for epoch in range(3):
    for batch in range(6):
        rows = slice(16 * batch, 16 * batch + 16)
        loss = model.train_on_batch(returns[rows], volatility[rows])
print(loss)
