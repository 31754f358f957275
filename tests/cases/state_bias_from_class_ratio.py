# expect: step=0 born_in=data|forward|update op=null cause=weights_already_nan rows=null
"""The output bias is set to log(positives / negatives); the file holds no positives, and the bias is -inf."""

import keras
import numpy as np

np.seterr(all="ignore")
keras.utils.set_random_seed(362)
rng = np.random.default_rng(362)
x = rng.normal(size=(96, 6)).astype("float32")
fraud = np.zeros((96, 1), "float32")

initial_bias = np.log(fraud.sum() / (len(fraud) - fraud.sum()))
model = keras.Sequential(
    [
        keras.Input((6,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(initial_bias)),
    ]
)
model.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy(from_logits=True))
for epoch in range(2):
    loss = model.train_on_batch(x, fraud)  # NG606 here
    print(epoch, loss)
