# expect: step=3 born_in=forward op=Exp forward_op=null cause=exp_overflow rows=2 dataset_rows=50
"""1 / (1 + exp(-x)): exp overflows, the value is a harmless 0, and the gradient is 0 * inf."""

import argparse

import keras
import numpy as np
import tensorflow as tf


def sigmoid(x):
    return 1.0 / (1.0 + tf.exp(-x))  # NG201 here


def build():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones"), keras.layers.Activation(sigmoid)]
    )


def load(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(96, 4)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) > 0).astype("float32")
    x[50] = -40.0
    return x, y


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=95)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    x, y = load(options.seed)
    model = build()
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
    model.fit(x, y, batch_size=16, epochs=options.epochs, shuffle=False, verbose=2)


if __name__ == "__main__":
    main()
