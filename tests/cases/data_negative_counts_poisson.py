# expect: step=1 born_in=forward|data op=Lgamma cause=data_bad_annotation rows=12 dataset_rows=44
"""Full Poisson likelihood with the log-factorial; the sensor writes -1 where it lost a count."""

import numpy as np
import tensorflow as tf
from tensorflow import keras

keras.utils.set_random_seed(13)
rng = np.random.default_rng(13)

hours = rng.uniform(-1, 1, (192, 4)).astype("float32")
counts = rng.poisson(np.exp(1.0 + hours @ np.array([0.4, -0.3, 0.2, 0.1]))).astype("float32")[:, None]
counts[44] = -1.0


class PoissonLikelihood(keras.losses.Loss):
    def call(self, y_true, log_rate):
        log_factorial = tf.math.lgamma(y_true + 1.0)  # NG704 here
        return tf.exp(log_rate) - y_true * log_rate + log_factorial


model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(0.05), loss=PoissonLikelihood())
log = model.fit(hours, counts, batch_size=32, epochs=1, shuffle=False, verbose=0)
print(log.history)
