"""Learns wines from few labels and many unlabelled bottles.

The cured twin of `wine_few_labels_nan.py`, whose masked mean divides 0 by 0 in a batch that has no label.

Changed: the quotient is nanguard's, which is 0 where the denominator is, in value and gradient: a batch without labels
teaches the autoencoder alone.
"""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_wine

import nanguard as ng

BATCH_SIZE = 16
EPOCHS = 10

keras.utils.set_random_seed(14)
random = np.random.default_rng(14)

chemistry, cultivar = load_wine(return_X_y=True)
x = ((chemistry - chemistry.mean(axis=0)) / chemistry.std(axis=0)).astype("float32")
is_labelled = (random.random(len(x)) < 0.125).astype("float32")

encoder = keras.Sequential([keras.Input((13,)), keras.layers.Dense(24, activation="tanh")])
classifier = keras.layers.Dense(3)
decoder = keras.layers.Dense(13)
classifier.build((None, 24))
decoder.build((None, 24))
variables = encoder.trainable_variables + classifier.trainable_variables + decoder.trainable_variables
optimizer = keras.optimizers.Adam(0.01)

for epoch in range(EPOCHS):
    order = random.permutation(len(x))
    for start in range(0, len(x), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        batch = tf.constant(x[rows])
        with tf.GradientTape() as tape:
            code = encoder(batch)
            # All bottles teach the autoencoder, the labelled ones the classifier too.
            reconstruction = tf.reduce_mean(tf.square(decoder(code) - batch))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(cultivar[rows], classifier(code))
            mask = tf.constant(is_labelled[rows])
            supervised = ng.ops.divide(tf.reduce_sum(losses * mask), tf.reduce_sum(mask))
            loss = supervised + reconstruction
        gradients = tape.gradient(loss, variables)
        optimizer.apply(gradients, variables)
    print(f"epoch {epoch}  loss {float(loss):.4f}")

predicted = np.argmax(classifier(encoder(x)), axis=-1)
unlabelled = is_labelled == 0
accuracy = np.mean(predicted[unlabelled] == cultivar[unlabelled])

print(f"final loss: {float(loss):.4f}")
print(f"accuracy on unlabelled bottles: {accuracy:.3f}")
