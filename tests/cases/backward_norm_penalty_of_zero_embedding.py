# expect: step=0 born_in=backward op=SqrtGrad|RealDiv forward_op=Sqrt cause=sqrt_norm_grad_at_zero rows=null
"""A group-lasso penalty, the norm of each row of a kernel that starts at zero."""

import keras
import tensorflow as tf
from sklearn.datasets import load_diabetes

keras.utils.set_random_seed(202)
X, y = load_diabetes(return_X_y=True)
X, y = X * 20, (y - y.mean()) / y.std()


def group_lasso(kernel):
    return 1e-3 * tf.reduce_sum(tf.norm(kernel, axis=1))  # NG301 here


model = keras.Sequential(
    [
        keras.Input((10,)),
        keras.layers.Dense(4, kernel_initializer="zeros", kernel_regularizer=group_lasso),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer="adam", loss="mse")
model.fit(X, y, epochs=2, batch_size=64, verbose=2)
