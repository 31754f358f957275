"""Learns an embedding of iris flowers with a triplet loss.

The cured twin of `iris_triplet_nan.py`, which takes the gradient of a square root at exactly 0: the distance of two
flowers with the same measurements.

Changed: the root is nanguard's, whose gradient at 0 is 0. That is right for two points that cannot be told apart.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_iris

import nanguard as ng

MARGIN = 1.0
STEPS = 300
TRIPLETS = 128

keras.utils.set_random_seed(2)
random = np.random.default_rng(2)

measurements, species = load_iris(return_X_y=True)
x = ((measurements - measurements.mean(axis=0)) / measurements.std(axis=0)).astype("float32")
members = [np.flatnonzero(species == label) for label in range(3)]

embedding = keras.Sequential(
    [keras.Input((4,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(2)],
    name="embedding",
)
optimizer = keras.optimizers.Adam(0.002)


def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Euclidean distance, row by row."""
    return ng.ops.sqrt(tf.reduce_sum(tf.square(a - b), axis=-1))


@tf.function
def train_step(anchor: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """Pulls anchor and positive together and pushes the negative a margin further away."""
    with tf.GradientTape() as tape:
        a, p, n = embedding(anchor), embedding(positive), embedding(negative)
        loss = tf.reduce_mean(tf.nn.relu(distance(a, p) - distance(a, n) + MARGIN))
    gradients = tape.gradient(loss, embedding.trainable_variables)
    optimizer.apply(gradients, embedding.trainable_variables)
    return loss


def draw_triplets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws anchors, other flowers of the same species, and flowers of another one."""
    anchors, positives, negatives = [], [], []
    for label in random.integers(0, 3, size=TRIPLETS):
        anchor, positive = random.choice(members[label], size=2, replace=False)
        negative = random.choice(members[(label + random.integers(1, 3)) % 3])
        anchors.append(anchor)
        positives.append(positive)
        negatives.append(negative)
    return x[anchors], x[positives], x[negatives]


for step in range(STEPS):
    loss = train_step(*draw_triplets())
    if step % 50 == 0:
        print(f"step {step:3d}  loss {float(loss):.4f}")

# Judge the embedding by its nearest neighbours: do they share the species?
points = embedding(x).numpy()
squared = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
np.fill_diagonal(squared, np.inf)
accuracy = np.mean(species[np.argmin(squared, axis=1)] == species)

print(f"final loss: {float(loss):.4f}")
print(f"nearest-neighbour accuracy: {accuracy:.3f}")
