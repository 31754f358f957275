# expect: step=2 born_in=forward op=RealDiv|DivNoNan forward_op=null cause=div_by_zero rows=1 dataset_rows=17
"""Dice loss without a smoothing term, on hard-thresholded masks; one slice shows no organ at all."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(42)
rng = np.random.default_rng(42)

scans = rng.uniform(0.2, 1.0, (48, 8, 8, 1)).astype("float32")
masks = (scans > 0.7).astype("float32")
scans[17], masks[17] = 0.0, 0.0


def dice_loss(y_true, y_pred):
    axes = (1, 2, 3)
    intersection = tf.reduce_sum(y_true * y_pred, axis=axes)
    union = tf.reduce_sum(y_true, axis=axes) + tf.reduce_sum(y_pred, axis=axes)
    return 1.0 - 2.0 * intersection / union  # NG105 here


model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(4, 3, padding="same", activation="relu", use_bias=False),
        keras.layers.Conv2D(1, 1, activation="relu", use_bias=False, kernel_initializer="ones"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=dice_loss, steps_per_execution=3)
model.fit(scans, masks, batch_size=8, epochs=1, shuffle=False, verbose=2)
