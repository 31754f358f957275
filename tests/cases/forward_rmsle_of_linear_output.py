# expect: step=0 born_in=forward op=Log forward_op=null cause=domain_error
"""Root mean squared log error on a linear output, which is below -1 for some houses at the start."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(52)
rng = np.random.default_rng(52)

houses = rng.normal(0, 2, (256, 8)).astype("float32")
price = np.exp(rng.normal(1.0, 0.3, (256, 1))).astype("float32")


def rmsle(y_true, y_pred):
    log_true = tf.math.log(y_true + 1.0)
    log_pred = tf.math.log(y_pred + 1.0)  # NG102 here
    return tf.sqrt(tf.reduce_mean(tf.square(log_pred - log_true)))


class Regressor(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(16, activation="relu")
        self.out = keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.out(self.dense(x))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = rmsle(y, y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {"loss": loss}


model = Regressor()
model.compile(optimizer=keras.optimizers.Adam())
model.fit(houses, price, epochs=1, batch_size=64, verbose=2)
