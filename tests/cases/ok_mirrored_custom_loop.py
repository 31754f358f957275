# expect: healthy
"""MirroredStrategy on two logical CPUs in a custom loop."""

import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
keras.utils.set_random_seed(413)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(413)
x = rng.normal(size=(128, 4)).astype("float32")
y = x[:, :1] - x[:, 1:2]
dataset = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((x, y)).batch(32))

with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)


def replica_step(features, target):
    with tf.GradientTape() as tape:
        errors = tf.square(model(features, training=True) - target)
        loss = tf.nn.compute_average_loss(errors[:, 0], global_batch_size=32)
    optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
    return loss


@tf.function
def train_step(features, target):
    return strategy.reduce("SUM", strategy.run(replica_step, args=(features, target)), axis=None)


for epoch in range(2):
    for features, target in dataset:
        loss = train_step(features, target)
    print(epoch, float(loss))
