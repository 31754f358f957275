# expect: step=4 born_in=forward op=Log forward_op=null cause=fp16_range
"""clip(p, 1e-7, 1 - 1e-7) under mixed_bfloat16: the upper bound rounds to 1, and log(1 - p) is -inf."""

import keras
import tensorflow as tf
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

keras.utils.set_random_seed(104)
keras.config.set_dtype_policy("mixed_bfloat16")

X, y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X).astype("float32")
y = y.astype("float32")[:, None]

EPSILON = 1e-7


class FocalModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(32, activation="relu")
        self.out = keras.layers.Dense(1, activation="sigmoid")

    def call(self, x):
        return self.out(self.hidden(x))

    def focal(self, y_true, y_pred):
        p = tf.clip_by_value(y_pred, EPSILON, 1.0 - EPSILON)
        y_true = tf.cast(y_true, p.dtype)
        positive = -y_true * (1.0 - p) ** 2 * tf.math.log(p)
        negative = -(1.0 - y_true) * p**2 * tf.math.log(1.0 - p)  # NG402 here
        return tf.reduce_mean(positive + negative)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.focal(y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


model = FocalModel()
model.compile(optimizer=keras.optimizers.Adam(0.02))
model.fit(X, y, batch_size=64, epochs=8, shuffle=False, verbose=0)
