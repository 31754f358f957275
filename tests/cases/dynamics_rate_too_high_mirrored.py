# expect: step=4 born_in=divergence cause=lr_too_high
"""MirroredStrategy on two logical CPUs, a custom loop, and a rate scaled up far beyond the number of replicas."""

import keras
import numpy as np
import tensorflow as tf

cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
keras.utils.set_random_seed(303)
rng = np.random.default_rng(303)

BATCH = 32
x = rng.normal(size=(256, 8)).astype("float32")
y = (x @ rng.normal(size=(8, 1))).astype("float32")
dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).repeat(4)
distributed = strategy.experimental_distribute_dataset(dataset)

with strategy.scope():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(learning_rate=1.0 * strategy.num_replicas_in_sync)


def replica_step(features, target):
    with tf.GradientTape() as tape:
        error = tf.square(model(features, training=True) - target)
        loss = tf.nn.compute_average_loss(error[:, 0], global_batch_size=BATCH)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss


@tf.function
def distributed_step(features, target):
    per_replica = strategy.run(replica_step, args=(features, target))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)


for features, target in distributed:
    loss = distributed_step(features, target)
    print(loss.numpy())
