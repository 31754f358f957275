# expect: step=2 born_in=data|forward cause=batchnorm_poisoned|data_outlier rows=5 dataset_rows=37 columns=1 seen_in=state
"""BatchNormalization instead of scaling: one fill value of 1e30 makes the moving variance infinite for good."""

import keras
import numpy as np

keras.utils.set_random_seed(352)
rng = np.random.default_rng(352)
x = rng.normal(size=(96, 4)).astype("float32")
y = (x[:, :1] - x[:, 2:3]).astype("float32")
x[37, 1] = 1e30

model = keras.Sequential(
    [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)]
)
model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=2)  # NG605|NG706 here
