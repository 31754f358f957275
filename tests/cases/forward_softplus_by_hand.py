# expect: step=4 born_in=forward op=Exp forward_op=null cause=exp_overflow rows=6 dataset_rows=70
"""softplus as log(1 + exp(x)) for a positive scale; one sample lies far out."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(92)
rng = np.random.default_rng(92)

x = rng.normal(size=(128, 3)).astype("float32")
x[70, 1] = 250.0
y = rng.gamma(2.0, 1.0, (128, 1)).astype("float32")


def softplus(x):
    return tf.math.log(1.0 + tf.exp(x))  # NG201 here


inputs = keras.Input((3,))
scale = keras.layers.Dense(1, activation=softplus, kernel_initializer="ones")(inputs)
model = keras.Model(inputs, scale)
model.compile(
    optimizer=keras.optimizers.SGD(1e-3),
    loss=lambda t, s: tf.reduce_mean(t / (s + 1e-3) + tf.math.log(s + 1e-3)),
)


def generate():
    for i in range(0, 128, 16):
        yield x[i : i + 16], y[i : i + 16]


dataset = tf.data.Dataset.from_generator(
    generate,
    output_signature=(tf.TensorSpec((None, 3), tf.float32), tf.TensorSpec((None, 1), tf.float32)),
)
model.fit(dataset, epochs=1, verbose=0)
