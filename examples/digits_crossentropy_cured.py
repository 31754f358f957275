"""Reads handwritten digits with a cross-entropy written out by hand.

The cured twin of `digits_crossentropy_nan.py`, which takes the logarithm of a probability that float32 rounds to 0.

Changed: the last layer puts out logits, and the loss is computed from them. TensorFlow then never forms the
probability: `log(softmax(z))` is `z - logsumexp(z)`, which is finite for every finite `z`.
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

keras.utils.set_random_seed(1)


def cross_entropy(y_true: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy between one-hot targets and the probabilities whose logits were predicted."""
    return tf.nn.softmax_cross_entropy_with_logits(y_true, logits)


images, labels = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
    images.astype("float32"),  # 8x8 pixels, 0 to 16
    keras.utils.to_categorical(labels),
    test_size=0.25,
    random_state=1,
)

model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(512, activation="relu"),
        keras.layers.Dense(512, activation="relu"),
        keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(0.01),
    loss=cross_entropy,
    metrics=["accuracy"],
)

history = model.fit(x_train, y_train, batch_size=64, epochs=12, verbose=2)
_, accuracy = model.evaluate(x_test, y_test, verbose=0)

print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test accuracy: {accuracy:.3f}")
