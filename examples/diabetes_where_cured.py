"""Predicts the progression of diabetes with a bent relu.

The cured twin of `diabetes_where_nan.py`, whose `tf.where` guards the value and not the gradient.

Changed: `select` makes the input of the power safe before it makes the choice, so that the branch that is not taken has
a finite slope too. Zero times a finite slope is 0.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_diabetes

import nanguard as ng

BATCH_SIZE = 32

keras.utils.set_random_seed(12)


def bent_relu(x: tf.Tensor) -> tf.Tensor:
    """A relu whose upper half is bent, so that large inputs count less."""
    return ng.ops.select(x > 0.0, lambda safe: tf.pow(safe, 0.8), x)


measurements, score = load_diabetes(return_X_y=True)
x = (measurements / measurements.std(axis=0)).astype("float32")
y = ((score - score.mean()) / score.std()).astype("float32")[:, None]
num_train = 350
dataset = tf.data.Dataset.from_tensor_slices((x[:num_train], y[:num_train])).batch(BATCH_SIZE).repeat(15)

model = keras.Sequential(
    [
        keras.Input((10,)),
        keras.layers.Dense(32, activation=bent_relu),
        keras.layers.Dense(1),
    ]
)
optimizer = keras.optimizers.Adam(0.005)


@tf.function
def train_step(batch: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """One step on the mean squared error."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(batch, training=True) - target))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


for step, (batch, target) in enumerate(dataset):
    loss = train_step(batch, target)
    if step % 33 == 0:
        print(f"step {step:3d}  loss {float(loss):.4f}")

error = np.mean(np.square(model(x[num_train:]).numpy() - y[num_train:]))
print(f"final loss: {float(loss):.4f}")
print(f"test error, where 1 is the mean's: {error:.3f}")
