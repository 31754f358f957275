# expect: step=2 born_in=data op=RealDiv cause=data_bad_preprocessing rows=6 dataset_rows=70
"""Each image is stretched to 0..1 in the input pipeline; one scan is blank."""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(2)

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32")[:320]
labels = labels[:320]
images[70] = 0.0


def stretch(image, label):
    low = tf.reduce_min(image)
    high = tf.reduce_max(image)
    return (image - low) / (high - low), label  # NG702 here


train = (
    tf.data.Dataset.from_tensor_slices((images, labels))
    .map(stretch, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(32)
    .prefetch(tf.data.AUTOTUNE)
)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(1e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(train, epochs=2, verbose=0)
