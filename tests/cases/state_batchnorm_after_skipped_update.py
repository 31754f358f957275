# expect: step=3 born_in=data cause=data_nan_inf|batchnorm_poisoned rows=2 columns=0
"""A loop that skips the update when the loss is not finite: too late for the moving statistics."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(353)
rng = np.random.default_rng(353)
x = rng.normal(size=(128, 5)).astype("float32")
y = rng.integers(0, 2, (128, 1)).astype("float32")
x[3 * 16 + 2, 0] = np.inf

model = keras.Sequential(
    [
        keras.Input((5,)),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dropout(0.2, seed=1),
        keras.layers.Dense(1),
    ]
)
optimizer = keras.optimizers.Adam(1e-2)
optimizer.build(model.trainable_variables)
bce = keras.losses.BinaryCrossentropy(from_logits=True)


@tf.function
def train_step(features, label):
    with tf.GradientTape() as tape:
        loss = bce(label, model(features, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    if tf.math.is_finite(loss):
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss


for i in range(0, 128, 16):
    train_step(tf.constant(x[i : i + 16]), tf.constant(y[i : i + 16]))  # NG701|NG605 here
print("after training:", bce(y[:32], model(x[:32], training=False)).numpy())
