"""What a checkpoint needs of Keras's `fit` and of TensorFlow's random state is where it is looked for."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard.backend import seams, training


def small_model() -> keras.Model:
    """A model that is not built."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


class Probe(keras.callbacks.Callback):
    """Asks within `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.list: Any = None
        self.local: dict[str, Any] = {}

    def set_params(self, params: dict[str, Any]) -> None:
        self.list = training.callback_list_of(self)

    def on_train_begin(self, logs: Any = None) -> None:
        self.local = training.calling_fit()


def probed(x: Any, y: Any = None, **options: Any) -> Probe:
    """Gives a probe that was in a `fit`."""
    probe = Probe()
    small_model().fit(x, y, verbose=0, callbacks=[probe], **options)
    return probe


def test_callback_list_and_fit_are_found() -> None:
    """A callback finds the list that holds it when its parameters are set, and the `fit` that it is in."""
    probe = probed(np.ones((4, 2)), np.ones((4, 1)))
    assert isinstance(probe.list, seams.keras_callbacks_class())
    assert probe in probe.list.callbacks
    assert probe.local["initial_epoch"] == 0
    assert training.callback_list_of(probe) is None
    assert training.calling_fit() == {}


def test_which_input_starts_each_epoch_afresh() -> None:
    """Arrays do, unless `steps_per_epoch` cuts them; a data set may not."""
    x, y = np.ones((4, 2)), np.ones((4, 1))
    assert training.starts_each_epoch_afresh(probed(x, y).local)
    assert not training.starts_each_epoch_afresh(probed(x, y, batch_size=1, steps_per_epoch=2).local)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    assert not training.starts_each_epoch_afresh(probed(data, shuffle=False).local)
    assert not training.starts_each_epoch_afresh({})


@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_keras_shuffles_arrays_alike_in_each_epoch(shuffle: Any) -> None:
    """With a seed, every epoch of arrays has the same order: the random op's state is new with the iterator."""
    keras.utils.set_random_seed(1)
    seen: list[list[float]] = []

    class Order(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            def pull(iterator: Any) -> dict[str, Any]:
                seen[-1].extend(next(iterator)[0].numpy().ravel())
                return {}

            self.model.train_function = pull
            self.model._get_metrics_result_or_logs = lambda logs: logs

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append([])

    x = np.arange(12.0)[:, None]
    small_model().fit(x, x, batch_size=4, epochs=3, shuffle=shuffle, verbose=0, callbacks=[Order()])
    assert seen[0] == seen[1] == seen[2] != sorted(seen[0])


def test_first_epoch_can_be_set() -> None:
    """`fit` starts where it is told when it begins."""

    class Later(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            training.set_first_epoch(self.model, 2)

    history = small_model().fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, verbose=0, callbacks=[Later()])
    assert history.epoch == [2]


def test_validation_can_be_muted() -> None:
    """No validation while it is muted, and what stood in its place comes back."""

    class Mute(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 0:
                self.undo = training.mute_validation(self.model)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 0:
                assert "val_loss" not in (logs or {})
                self.undo()

    x, y = np.ones((4, 2)), np.ones((4, 1))
    history = small_model().fit(x, y, validation_data=(x, y), epochs=2, verbose=0, callbacks=[Mute()])
    assert len(history.history["val_loss"]) == 1


def test_build_makes_all_variables() -> None:
    """Weights, metrics and slots are there without a step."""
    model = small_model()
    training.build(model, (tf.ones((2, 3)), tf.ones((2, 1))))
    assert len(model.variables) == 2
    assert len(model.optimizer.variables) == 2 + 4
    assert len(model.metrics_variables) == 4


def test_random_state_of_eager_mode() -> None:
    """The generator behind eager random ops gives the same numbers again when it is put back."""
    keras.utils.set_random_seed(5)
    assert training.global_seed() == 5
    generator = training.eager_random()
    assert isinstance(generator, random.Random)
    before = generator.getstate()
    first = tf.random.normal([3]).numpy()
    # Also forgets the kernels that have drawn: a new process has none.
    keras.utils.set_random_seed(5)
    training.eager_random().setstate(before)  # type: ignore[union-attr]
    np.testing.assert_array_equal(tf.random.normal([3]), first)


def test_global_generators_are_found() -> None:
    """Keras's and TensorFlow's global generators are listed once they are made."""
    keras.backend.clear_session()
    training.make_global_generator()
    tf.random.get_global_generator()
    assert len(training.global_variables()) == 2


def test_components_of_a_plain_variable() -> None:
    """Outside a strategy a variable is its own only part."""
    variable = tf.Variable(1.0)
    assert training.components(variable) == [variable]
