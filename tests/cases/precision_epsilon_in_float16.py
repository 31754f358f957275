# expect: step=0 born_in=forward op=Log forward_op=null cause=fp16_range short=1
"""log(p + 1e-8) under mixed_float16: the epsilon is 0 in float16."""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(101)
keras.mixed_precision.set_global_policy("mixed_float16")

images, labels = load_digits(return_X_y=True)
images = images[:512].astype("float32") * 4.0
onehot = np.eye(10, dtype="float16")[labels[:512]]


def crossentropy(y_true, y_pred):
    y_true = tf.cast(y_true, y_pred.dtype)
    return -tf.reduce_sum(y_true * tf.math.log(y_pred + 1e-8), axis=-1)  # NG402 here


model = keras.Sequential(
    [keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10, activation="softmax")]
)
loss_scaled = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.01))


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(crossentropy(y, model(x, training=True)))
        scaled = loss_scaled.scale_loss(loss)
    loss_scaled.apply(tape.gradient(scaled, model.trainable_variables), model.trainable_variables)
    return loss


for i in range(0, 512, 64):
    print(float(train_step(images[i : i + 64], onehot[i : i + 64])))
