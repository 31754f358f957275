# expect: healthy
"""log(p + eps) with an epsilon that float32 can hold, in a train_step of its own."""

import keras
import tensorflow as tf
from sklearn.datasets import load_iris

keras.utils.set_random_seed(405)
X, y = load_iris(return_X_y=True)
X = (X * 10).astype("float32")


class Classifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.net = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3, activation="softmax")])

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            p = self(x, training=True)
            one_hot = tf.one_hot(y, 3)
            loss = -tf.reduce_mean(tf.reduce_sum(one_hot * tf.math.log(p + 1e-7), axis=-1))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {"loss": loss}


model = Classifier()
model.compile(optimizer=keras.optimizers.Adam(1e-3))
model.fit(X, y, batch_size=30, epochs=4, verbose=2)
