"""How a clip is named, saved and built, and how it works on two replicas."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from kinds import KINDS, weights

from nanguard import clipping
from nanguard.errors import UsageError


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (0.5, "ClipByGlobalNorm"),
        (2, "ClipByGlobalNorm"),
        ("agc", "AGC"),
        ("autoclip", "AutoClip"),
        ("zclip", "ZClip"),
        ("adagc", "AdaGC"),
        ("stable_adamw", "StableAdamW"),
    ],
)
def test_get(spec, kind):
    """A number is the limit of the global norm, a name its kind."""
    assert type(clipping.get(spec)).__name__ == kind


def test_get_gives_a_clip_and_none_as_they_are():
    """A clip is what it is, and None is none."""
    clip = clipping.AGC()
    assert clipping.get(clip) is clip
    assert clipping.get(None) is None


@pytest.mark.parametrize("spec", [0, -1.0, float("nan"), float("inf"), True, "norm", [1.0], clipping.AGC])
def test_get_refuses(spec):
    """Anything else is one line that says what may be given."""
    with pytest.raises(
        UsageError, match=r"`clip` must be a clip of nanguard\.clipping, a positive number or one of agc"
    ):
        clipping.get(spec)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: clipping.ClipByNorm(0), "`limit` must be a positive, finite number. Received: limit=0"),
        (lambda: clipping.ClipByValue("1"), "`limit` must be a positive, finite number. Received: limit='1'"),
        (lambda: clipping.AutoClip(101), "`percentile` must be from 0 to 100. Received: percentile=101"),
        (lambda: clipping.AutoClip(history=0), "`history` must be a whole number of at least 1. Received: history=0"),
        (lambda: clipping.ZClip(alpha=1.0), "`alpha` must be at least 0 and below 1. Received: alpha=1.0"),
        (
            lambda: clipping.AGC(exclude="head"),
            "`exclude` must be a list of parts of weights' paths. Received: exclude='head'",
        ),
        (lambda: clipping.AGC()([tf.constant([1.0])]), "AGC compares gradients with weights"),
        (lambda: clipping.AdaGC()([tf.constant([1.0])]), "AdaGC keeps an average for each weight"),
    ],
)
def test_bad_arguments(make, says):
    """A bad argument is one line with the rule and what came."""
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind):
    """A clip that is saved by Keras comes back with the same arguments."""
    clip = KINDS[kind]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(clip))
    assert type(again) is type(clip)
    assert again.get_config() == clip.get_config()
    assert repr(again) == repr(clip)


@pytest.mark.parametrize("kind", KINDS)
def test_build_is_idempotent_and_state_can_be_put_back(kind):
    """A second build makes nothing; with its state put back a clip does what it did."""
    variables, clip = weights(), KINDS[kind]()
    clip.build(variables)
    made = list(clip.variables)
    clip.build(variables)
    assert [id(variable) for variable in made] == [id(variable) for variable in clip.variables]
    for _ in range(6):
        clip([tf.ones_like(variable) for variable in variables], variables)
    kept = [variable.numpy() for variable in clip.variables]
    results = []
    for _ in range(2):
        results.append([grad.numpy() for grad in clip([9 * tf.ones_like(weight) for weight in variables], variables)])
        for variable, value in zip(clip.variables, kept, strict=True):
            variable.assign(value)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_built_inside_a_function():
    """A clip that was not built builds itself while the step is traced."""
    clip = clipping.AutoClip(50)
    step = tf.function(lambda x: clip([x])[0])
    assert [step(tf.constant([norm])).numpy().item() for norm in (1.0, 3.0)] == [1.0, 2.0]


def test_agc_excludes_and_knows_depthwise_kernels():
    """Excluded weights are left alone; a depthwise kernel has a unit for each channel."""
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.DepthwiseConv2D(3), keras.layers.Flatten()])
    model.add(keras.layers.Dense(1, name="head"))
    variables = model.trainable_variables
    grads = [tf.ones_like(variable) for variable in variables]
    small = np.ones(variables[0].shape, "float32")
    small[:, :, 0] = 1e-9
    grads[0] = tf.constant(small)
    got = clipping.AGC(exclude=["head"])(grads, variables)
    np.testing.assert_array_equal(got[0].numpy()[:, :, 0], small[:, :, 0])
    assert np.abs(got[0].numpy()[:, :, 1]).max() < 0.1
    np.testing.assert_array_equal(got[2], grads[2])


def test_adagc_refuses_another_weight():
    """A weight that an AdaGC was not built with has no average, and is named."""
    clip = clipping.AdaGC()
    clip([tf.ones([2])], [tf.Variable([1.0, 2.0])])
    with pytest.raises(UsageError, match=r"Received: other:0, which is another\. Make one AdaGC for each optimizer"):
        clip([tf.ones([2])], [tf.Variable([1.0, 2.0], name="other")])


TWO_REPLICAS = """
import sys
import keras, tensorflow as tf
sys.path.insert(0, sys.argv[1])
from kinds import KINDS
from nanguard.backend.updates import scaled_updates

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for kind, make in KINDS.items():
    ends = []
    for is_mirrored in (True, False):
        scope = strategy.scope() if is_mirrored else tf.device("CPU:0")
        with scope:
            clip, weight = make(), keras.Variable([1.0, 2.0])
            adam = keras.optimizers.Adam(0.1, beta_2=0.5)
            clip.build([weight])
            adam.build([weight])

        def step(grad):
            def clipped():
                return clip([grad], [weight])[0]
            grad = tf.cond(tf.reduce_all(tf.math.is_finite(grad)), clipped, lambda: grad)
            with scaled_updates(adam, clip):
                adam.apply([grad / (2 if is_mirrored else 1)], [weight])

        run = tf.function((lambda grad: strategy.run(step, (grad,))) if is_mirrored else step)
        for size in (1.0, 0.5, 2.0, 0.7, 1.1, 1.2, 60.0):
            run(tf.constant([size, -size]))
        assert "update_step" not in vars(adam)
        ends.append([tf.convert_to_tensor(value).numpy().tolist() for value in [weight, *clip.variables]])
    assert ends[0] == ends[1], (kind, ends)
print("alike")
"""


def test_two_replicas_are_as_one():
    """Inside a conditional of a replica the state is written, and two replicas end where one does."""
    command = [sys.executable, "-W", "ignore", "-c", TWO_REPLICAS, os.path.dirname(__file__)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.stdout.strip() == "alike", done.stderr[-2000:]
