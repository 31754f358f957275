# expect: step=3 born_in=data op=null cause=data_outlier rows=10 dataset_rows=58 columns=2 short=1
"""Terrain features from a raster whose `nodata` is the most negative float32."""

import keras
import numpy as np

keras.utils.set_random_seed(6)
rng = np.random.default_rng(6)

terrain = rng.normal(0, 1, (160, 5)).astype("float32")  # slope, aspect, elevation, curvature, wetness
erosion = (terrain[:, 0] + 0.5 * terrain[:, 4]).astype("float32")
terrain[58, 2] = -3.4028235e38

model = keras.Sequential(
    [
        keras.Input((5,)),
        keras.layers.Dense(8, activation="leaky_relu"),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer="adam", loss="mse")
model.fit(terrain, erosion, batch_size=16, epochs=1, shuffle=False, verbose=2)  # NG706 here
