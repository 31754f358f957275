"""The units of AGC: those of the authors' code, and for each layer of Keras what really feeds one output."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard import clipping

# Small enough that each unit is clipped.
CLIPPING = 1e-3


def factors(variable):
    """What each number of a random gradient is multiplied by, with the gradient and the weights."""
    rng = np.random.default_rng(0)
    grad = (rng.uniform(1, 2, variable.shape) * rng.choice([-1, 1], variable.shape)).astype("float32")
    variable.assign(rng.normal(size=variable.shape))
    got = clipping.AGC(CLIPPING)([tf.constant(grad)], [variable])[0].numpy()
    return got / grad, grad, variable.numpy()


def hold(variable, units):
    """Compares with the paper's formula; `units` are masks that hold each number of the weight once."""
    np.testing.assert_array_equal(np.sum(units, axis=0), np.ones(variable.shape))
    got, grad, weight = factors(variable)
    want = np.zeros(variable.shape)
    for unit in units:
        want[unit] = CLIPPING * max(np.linalg.norm(weight[unit]), 1e-3) / np.linalg.norm(grad[unit])
    assert want.max() < 1
    np.testing.assert_allclose(got, want, rtol=1e-5)


def slices(shape, *axes):
    """The masks with one index on these axes."""
    for index in np.ndindex(*(shape[axis] for axis in axes)):
        mask = np.zeros(shape, bool)
        place = [slice(None)] * len(shape)
        for axis, i in zip(axes, index, strict=True):
            place[axis] = i
        mask[tuple(place)] = True
        yield mask


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (3, 1), (1, 1, 1, 4), (4, 1, 1, 1)])
def test_one_unit(shape):
    """A scalar, a vector and what is one but for axes of length 1 is one unit, as in the authors' code."""
    hold(keras.Variable(np.zeros(shape, "float32")), [np.ones(shape, bool)])


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2, 5), (1, 1, 2, 3)])
def test_last_axis(shape):
    """A kernel of two or four axes has a unit for each last index, as in the authors' code."""
    hold(keras.Variable(np.zeros(shape, "float32")), list(slices(shape, len(shape) - 1)))


def attention():
    """Attention of two heads with three channels each."""
    layer = keras.layers.MultiHeadAttention(2, 3)
    layer.build((1, 2, 4), (1, 2, 4))
    return layer


# How each is made, and the shape of its input.
LAYERS = {
    "dense": (lambda: keras.layers.Dense(3), (4,)),
    "conv1d": (lambda: keras.layers.Conv1D(3, 2), (5, 4)),
    "conv2d": (lambda: keras.layers.Conv2D(3, 2), (4, 4, 2)),
    "conv3d": (lambda: keras.layers.Conv3D(3, 2), (3, 3, 3, 2)),
    "grouped": (lambda: keras.layers.Conv2D(4, 2, groups=2), (3, 3, 4)),
    "depthwise1d": (lambda: keras.layers.DepthwiseConv1D(2), (4, 3)),
    "depthwise2d": (lambda: keras.layers.DepthwiseConv2D(2), (4, 4, 3)),
    "transpose1d": (lambda: keras.layers.Conv1DTranspose(3, 2), (4, 2)),
    "transpose2d": (lambda: keras.layers.Conv2DTranspose(3, 2), (3, 3, 2)),
    "query": (lambda: attention().query_dense, (2, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_unit_is_what_feeds_one_output(name):
    """The units are found by asking the layer itself: which numbers of the kernel has an output a gradient of?"""
    make, shape = LAYERS[name]
    layer = make()
    x = np.random.default_rng(1).uniform(1, 2, (2, *shape)).astype("float32")
    layer(x)
    with tf.GradientTape(persistent=True) as tape:
        y = layer(x)
        num_outputs = int(np.prod(y.shape[-2:] if name == "query" else y.shape[-1:]))
        outputs = tf.reduce_sum(tf.reshape(y, [-1, num_outputs]), 0)
    # TensorFlow cannot vectorise the gradient of a convolution in groups.
    slopes = tape.jacobian(outputs, layer.kernel.value, experimental_use_pfor=False)
    hold(layer.kernel, list(slopes.numpy() != 0))


def test_attention_output():
    """The kernel that brings the heads together has a unit for each output."""
    hold(attention().output_dense.kernel, list(slices((2, 3, 4), 2)))


def test_a_bias_is_one_unit():
    """So is a gain, whatever its axes."""
    gru, norm = keras.layers.GRU(2), keras.layers.LayerNormalization(axis=[1, 2])
    for layer in (gru, norm):
        layer.build((1, 4, 3))
    weights = [*gru.weights, *norm.weights, *attention().weights]
    found = [each for each in weights if each.name in ("bias", "gamma", "beta")]
    assert sum(len(each.shape) > 1 for each in found) == 6
    for each in found:
        hold(each, [np.ones(each.shape, bool)])


def test_an_embedding_has_the_same_units_sparse_and_dense():
    """A row is a unit, however its gradient comes."""
    embedding = keras.layers.Embedding(4, 3)
    embedding.build()
    hold(embedding.embeddings, list(slices((4, 3), 0)))
    grad = np.random.default_rng(2).normal(size=(4, 3)).astype("float32")
    sparse = tf.IndexedSlices(tf.constant(grad), tf.range(4), tf.constant([4, 3]))
    clip = clipping.AGC(CLIPPING)
    one, other = (clip([each], [embedding.embeddings])[0] for each in (sparse, tf.constant(grad)))
    np.testing.assert_allclose(one.values.numpy(), other.numpy(), rtol=1e-6)
