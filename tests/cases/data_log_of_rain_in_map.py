# expect: step=1 born_in=data op=Log cause=data_bad_preprocessing rows=4,30 columns=1
"""Rain is log-transformed in the pipeline after batching; dry days have 0 mm."""

import numpy as np
import tensorflow as tf

tf.random.set_seed(0)
rng = np.random.default_rng(8)

weather = np.stack([rng.normal(15, 5, 256), rng.gamma(2.0, 3.0, 256), rng.uniform(0, 100, 256)], axis=1).astype("float32")
weather[[36, 62], 1] = 0.0
flow = (0.3 * weather[:, 1] + 0.01 * weather[:, 2]).astype("float32")


def transform(row, target):
    temperature, rain, humidity = tf.unstack(row, axis=-1)
    log_rain = tf.math.log(rain)  # NG702 here
    return tf.stack([temperature / 30.0, log_rain, humidity / 100.0], axis=-1), target


dataset = tf.data.Dataset.from_tensor_slices((weather, flow)).batch(32).map(transform)

w = tf.Variable(tf.zeros([3, 1]))
b = tf.Variable([1.0])
optimizer = tf.keras.optimizers.SGD(0.01)


@tf.function
def train_step(features, target):
    with tf.GradientTape() as tape:
        prediction = tf.squeeze(features @ w + b, -1)
        loss = tf.reduce_mean(tf.square(prediction - target))
    gradients = tape.gradient(loss, [w, b])
    optimizer.apply_gradients(zip(gradients, [w, b]))
    return loss


for features, target in dataset:
    print(float(train_step(features, target)))
