# expect: healthy
"""The standard deviation overflows to Inf for one fill value; dividing by it gives 0 and no gradient sees it."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(6)
rng = np.random.default_rng(6)

terrain = rng.normal(0, 1, (160, 5)).astype("float32")  # slope, aspect, elevation, curvature, wetness
landslide = (terrain[:, 0] + terrain[:, 4] > 0.5).astype("float32")
terrain[58, 2] = -3.4028235e38

class Landslides(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(1e-4))
        self.head = keras.layers.Dense(1)

    def call(self, x):
        standardised = (x - tf.reduce_mean(x, axis=0)) / (tf.math.reduce_std(x, axis=0) + 1e-3)
        return self.head(self.hidden(standardised))


model = Landslides()
model.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy(from_logits=True))
model.fit(terrain, landslide, batch_size=16, epochs=1, shuffle=False, verbose=2)
