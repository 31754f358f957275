# expect: step=2 born_in=forward op=Sub forward_op=null cause=all_masked_softmax rows=6 seen_in=loss
"""A softmax by hand subtracts the maximum; where all positions are masked, that is -inf - -inf."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(73)
rng = np.random.default_rng(73)
values = rng.normal(size=(80, 7, 4)).astype("float32")
present = rng.uniform(size=(80, 7)) < 0.8
present[:, 0] = True
present[2 * 16 + 6] = False
target = rng.normal(size=(80, 4)).astype("float32")


def masked_softmax(scores, present):
    scores = tf.where(present, scores, float("-inf"))
    shifted = scores - tf.reduce_max(scores, axis=-1, keepdims=True)  # NG203|NG502 here
    weights = tf.exp(shifted)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


class Trainer:
    def __init__(self):
        self.score = keras.layers.Dense(1)
        self.score.build((None, 7, 4))
        self.optimizer = keras.optimizers.Adam(1e-2)

    def forward(self, x, present):
        attention = masked_softmax(self.score(x)[..., 0], present)
        return tf.einsum("bt,btd->bd", attention, x)

    @tf.function
    def step(self, x, present, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.forward(x, present) - y))
        variables = self.score.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    def run(self, dataset):
        for batch in dataset:
            print(self.step(*batch).numpy())


Trainer().run(tf.data.Dataset.from_tensor_slices((values, present, target)).batch(16))
