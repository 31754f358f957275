# expect: step=3 born_in=data op=null cause=data_nan_inf rows=5 dataset_rows=101 columns=2
"""fit under MirroredStrategy on two logical CPUs."""

import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()],
)
keras.utils.set_random_seed(16)
rng = np.random.default_rng(16)
x = rng.normal(size=(256, 5)).astype("float32")
y = (x[:, 0] > 0).astype("float32")
x[101, 2] = np.nan

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy(from_logits=True))
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
model.fit(data, epochs=1, verbose=2)  # NG701 here
