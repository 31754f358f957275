# expect: step=0 born_in=data|forward|update op=null cause=weights_already_nan rows=null|5 short=1
"""Word vectors as means over sub-words; a word without sub-words got 0 / 0 before training began."""

import keras
import numpy as np

np.seterr(all="ignore")
keras.utils.set_random_seed(361)
rng = np.random.default_rng(361)

VOCABULARY, WIDTH = 30, 8
sums = rng.normal(size=(VOCABULARY, WIDTH))
pieces = rng.integers(1, 4, VOCABULARY)
sums[17], pieces[17] = 0.0, 0
vectors = (sums / pieces[:, None]).astype("float32")

reviews = rng.integers(0, VOCABULARY, (128, 10))
reviews[reviews == 17] = 16
reviews[5, 3] = 17
stars = rng.integers(0, 5, 128)

model = keras.Sequential(
    [
        keras.Input((10,), dtype="int32"),
        keras.layers.Embedding(VOCABULARY, WIDTH, weights=[vectors], name="words"),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(5),
    ]
)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(reviews, stars, batch_size=32, epochs=1, shuffle=False, verbose=2)  # NG606 here
