# expect: step=2 born_in=forward op=CTCLoss|CTCLossV2 forward_op=null cause=ctc_infeasible rows=3
"""Speech to letters; one utterance needs a blank between each of its doubled letters, which its frames do not allow."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(81)
rng = np.random.default_rng(81)

frames = rng.normal(size=(40, 8, 6)).astype("float32")
letters = np.zeros((40, 6), "int32")
letters[:, :3] = rng.integers(1, 5, (40, 3))
letters[19] = [2, 2, 2, 2, 2, 2]  # 6 letters and 5 blanks do not fit into 8 frames

model = keras.Sequential(
    [
        keras.Input((8, 6)),
        keras.layers.Bidirectional(keras.layers.GRU(8, return_sequences=True)),
        keras.layers.Dense(5),
    ]
)
optimizer = keras.optimizers.Adam(1e-2)


@tf.function
def train_step(sound, text):
    with tf.GradientTape() as tape:
        logits = model(sound, training=True)
        losses = tf.nn.ctc_loss(  # NG503 here
            labels=tf.sparse.from_dense(text),
            logits=logits,
            label_length=None,
            logit_length=tf.fill([tf.shape(logits)[0]], tf.shape(logits)[1]),
            logits_time_major=False,
            blank_index=0,
        )
        loss = tf.reduce_mean(losses)
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))
    return loss


for sound, text in tf.data.Dataset.from_tensor_slices((frames, letters)).batch(8):
    print(train_step(sound, text).numpy())
