# expect: step=2 born_in=forward op=Rsqrt forward_op=null cause=div_by_zero rows=15 dataset_rows=47
"""Instance normalisation without an epsilon; a blank image has the variance 0."""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(49)
images = load_digits().images[:96, :, :, None].astype("float32") / 16.0
labels = load_digits().target[:96]
images[47] = 0.0


class InstanceNorm(keras.layers.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        mean, variance = tf.nn.moments(x, axes=[1, 2], keepdims=True)
        return self.scale * (x - mean) * tf.math.rsqrt(variance)  # NG107 here


model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(4, 3, use_bias=False),
        InstanceNorm(),
        keras.layers.Activation("relu"),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(images, labels, batch_size=16, epochs=1, shuffle=False, verbose=2)
