# expect: healthy
"""Every gradient is exactly 0: the relu units are all silent."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(417)
x = np.random.default_rng(417).uniform(0, 1, (64, 4)).astype("float32")
y = np.zeros((64, 1), "float32")

model = keras.Sequential(
    [
        keras.Input((4,)),
        keras.layers.Dense(8, activation="relu", bias_initializer=keras.initializers.Constant(-100.0)),
        keras.layers.Dense(1, use_bias=False),
    ]
)
optimizer = keras.optimizers.Adam(1e-3)


@tf.function(jit_compile=True)
def train_step(features, target):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(features, training=True) - target))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss


for _ in range(6):
    print(train_step(tf.constant(x), tf.constant(y)).numpy())
