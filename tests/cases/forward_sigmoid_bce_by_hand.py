# expect: step=4 born_in=forward op=Log forward_op=null cause=softmax_then_log rows=3 dataset_rows=131
"""Binary cross-entropy written out; one applicant's income is in cents, and 1 - p becomes exactly 0."""

import keras
import numpy as np
from keras import ops

keras.utils.set_random_seed(34)
rng = np.random.default_rng(34)

X = np.stack([rng.normal(3.0, 1.0, 320), rng.normal(40, 10, 320) / 10], axis=1).astype("float32")
y = (X[:, 0] + rng.normal(0, 0.5, 320) > 3).astype("float32")[:, None]
X[131, 0] = 420.0
y[131] = 0.0


def bce(y_true, y_pred):
    return -ops.mean(
        y_true * ops.log(y_pred)
        + (1.0 - y_true)
        * ops.log(1.0 - y_pred)  # NG103 here
    )


model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")])
model.compile(loss=bce, optimizer=keras.optimizers.SGD(1e-3))
model.fit(X, y, batch_size=32, epochs=1, shuffle=False, verbose=2)
