# expect: step=0 born_in=update op=RealDiv forward_op=null cause=lr_schedule_nan rows=null
"""Linear warm-up over 5 % of the steps, which is 0 steps on a small data set: 0 / 0."""

import keras
import tensorflow as tf
from sklearn.datasets import load_iris

keras.utils.set_random_seed(322)
x, y = load_iris(return_X_y=True)
batch_size = 16
total_steps = len(x) // batch_size


@keras.saving.register_keras_serializable()
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak, warmup_steps):
        self.peak, self.warmup_steps = peak, warmup_steps

    def __call__(self, step):
        fraction = tf.cast(step, tf.float32) / tf.cast(self.warmup_steps, tf.float32)  # NG603 here
        return self.peak * tf.minimum(fraction, 1.0)


model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)])
model.compile(
    optimizer=keras.optimizers.SGD(WarmUp(0.05, int(0.05 * total_steps))),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(x, y, batch_size=batch_size, epochs=1, verbose=0)
