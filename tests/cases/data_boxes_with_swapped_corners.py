# expect: step=3 born_in=forward|data op=Log cause=data_bad_annotation rows=5 dataset_rows=53
"""Box regression with log sizes as targets; one annotator dragged from right to left."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(21)
rng = np.random.default_rng(21)

top_left = rng.uniform(0, 40, (128, 2))
boxes = np.concatenate([top_left, top_left + rng.uniform(8, 20, (128, 2))], axis=1).astype("float32")
boxes[53, [0, 2]] = boxes[53, [2, 0]]
images = rng.normal(size=(128, 12)).astype("float32")

backbone = keras.Sequential([keras.Input((12,)), keras.layers.Dense(16, activation="swish"), keras.layers.Dense(4)])
optimizer = keras.optimizers.Adam(1e-2)


def encode(box):
    """Corners to centre and log size."""
    width = box[:, 2] - box[:, 0]
    height = box[:, 3] - box[:, 1]
    return tf.stack(
        [
            (box[:, 0] + box[:, 2]) / 128.0,
            (box[:, 1] + box[:, 3]) / 128.0,
            tf.math.log(width / 16.0),  # NG704 here
            tf.math.log(height / 16.0),
        ],
        axis=1,
    )


@tf.function
def train_step(image, box):
    with tf.GradientTape() as tape:
        error = backbone(image, training=True) - encode(box)
        loss = tf.reduce_mean(tf.where(tf.abs(error) < 1.0, 0.5 * error**2, tf.abs(error) - 0.5))
    grads = tape.gradient(loss, backbone.trainable_variables)
    optimizer.apply_gradients(zip(grads, backbone.trainable_variables))
    return loss


for epoch in range(2):
    for i in range(0, 128, 16):
        loss = train_step(images[i : i + 16], boxes[i : i + 16])
    print(f"epoch {epoch}: {loss.numpy():.4f}")
