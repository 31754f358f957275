# expect: step=0 born_in=backward op=SqrtGrad forward_op=Sqrt cause=sqrt_norm_grad_at_zero rows=null
"""Repulsion over all pairs of a batch: on the diagonal the distance of a point to itself is 0."""

import keras
import tensorflow as tf
from sklearn.datasets import load_wine

keras.utils.set_random_seed(205)
X, y = load_wine(return_X_y=True)
X = ((X - X.mean(0)) / X.std(0)).astype("float32")


class Repel(keras.Model):
    """Spreads the embeddings of a batch."""

    def __init__(self):
        super().__init__()
        self.project = keras.layers.Dense(3, use_bias=False)

    def call(self, x):
        z = self.project(x)
        difference = z[:, None, :] - z[None, :, :]
        distance = tf.sqrt(tf.reduce_sum(difference**2, axis=-1))  # NG301 here
        self.add_loss(tf.reduce_mean(tf.exp(-distance)))
        return z


model = Repel()
model.compile(optimizer="adam", loss="mse", loss_weights=0.1)
model.fit(X, X[:, :3], batch_size=32, epochs=1, verbose=0)
