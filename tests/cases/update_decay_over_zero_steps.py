# expect: step=0 born_in=update op=RealDiv cause=lr_schedule_nan rows=null
"""A decay over len(x) // batch_size // 100 steps, which is 0 on the small data set: 0 / 0."""

import keras
from sklearn.datasets import load_iris

keras.utils.set_random_seed(322)
x, y = load_iris(return_X_y=True)
batch_size = 16
decay_steps = len(x) // batch_size // 100

schedule = keras.optimizers.schedules.ExponentialDecay(0.05, decay_steps=decay_steps, decay_rate=0.9)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)])
model.compile(
    optimizer=keras.optimizers.SGD(schedule),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(x, y, batch_size=batch_size, epochs=1, verbose=0)  # NG603 here
