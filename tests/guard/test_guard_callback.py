"""The guard among callbacks, data and models: what it does about a refused step, and how it tells."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import nanguard as ng

# By its path: the tests are no package.
sys.path.insert(0, str(Path(__file__).parent))
import guardings
from guardings import bad, batches, compiled, dataset, differences, everything, guard, sequential, trained, with_bad

# Keras's own way to save and to hand a learning rate to NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def model_of(**options: Any) -> Any:
    keras.utils.set_random_seed(1)
    return compiled(sequential(keras.layers.BatchNormalization()), **{"metrics": ["mae"], **options})


def fit(model: Any, parts: Any, *callbacks: Any, **options: Any) -> dict[str, Any]:
    data = dataset(parts) if isinstance(parts, list) else parts
    return model.fit(data, shuffle=False, verbose=0, callbacks=list(callbacks), **options).history


class Logs(keras.callbacks.Callback):
    """Keeps the logs of each batch and epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[dict[str, Any]] = []
        self.epochs: list[dict[str, Any]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append(dict(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(dict(logs))


# -- how it tells


def test_logs_reach_every_callback(tmp_path):
    """Callbacks before and after the guard, CSVLogger and History see its measurements, and no NaN."""
    before, after = Logs(), Logs()
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model_of(), with_bad(batches()), before, logger, guard(), after, epochs=2)
    keys = {"nanguard/skipped", "nanguard/grad_norm", "nanguard/clip"}
    assert keys < set(history)
    assert history["nanguard/skipped"] == [4.0, 4.0]
    assert history["nanguard/clip"] == [1.0, 1.0]
    for logs in (*before.batches, *after.batches, *before.epochs, *after.epochs):
        assert keys < set(logs)
        assert np.isfinite([float(value) for value in logs.values()]).all(), logs
    assert before.batches[-1]["nanguard/skipped"] == 4.0
    with open(tmp_path / "log.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["nanguard/skipped"]) for row in rows] == [4.0, 4.0]


def test_gradient_norm_is_that_of_the_gradient():
    """`nanguard/grad_norm` is the L2 norm of all gradients, and `nanguard/clip` the factor of the clip."""
    model = model_of()
    ((x, y),) = batches(1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
    norm = float(tf.linalg.global_norm(tape.gradient(loss, model.trainable_variables)))
    history = fit(model_of(), [(x, y)], guard(clip=norm / 4))
    assert history["nanguard/grad_norm"][0] == pytest.approx(norm, rel=1e-5)
    assert history["nanguard/clip"][0] == pytest.approx(0.25, rel=1e-5)


def test_it_says_what_it_did(capfd):
    """A line when it acts and a summary at the end, on stderr; with verbose=False nothing."""
    fit(model_of(), [batches(1)[0], bad()], guard(verbose=True))
    told = capfd.readouterr().err
    assert "step 1 (epoch 0, batch 1) was not finite in" in told
    assert "rows 3 of the batch" in told
    assert "2 steps, 1 skipped" in told
    fit(model_of(), [batches(1)[0], bad()], guard())
    assert "nanguard" not in capfd.readouterr().err


@pytest.mark.long
def test_event(tmp_path):
    """An event has the step, the rows, the norms by weight, the incident, a capture and the batch on disk."""
    watch = ng.Guard(quarantine=tmp_path / "kept", verbose=False)
    model = model_of()
    fit(model, [*batches(2), bad()], watch)
    (event,) = watch.events
    assert (event.reason, event.step, event.epoch, event.batch, event.action) == ("nonfinite", 2, 0, 2, "skip")
    assert event.reproduced is True
    assert event.rows == (3,)
    assert event.incident.cause == "data_nan_inf"
    assert Path(event.capture).exists()
    assert Path(event.quarantined).exists()
    assert set(event.norms) == {weight.path for weight in model.trainable_variables}
    assert not event.why


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param({}, id="graph"), pytest.param({"run_eagerly": True}, id="eager"),
        pytest.param({"jit_compile": True}, id="xla", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_diagnosis_leaves_no_trace(mode):
    """Running a refused step again to explain it changes no bit of the training."""
    build, good = guardings.layer_state, batches(3)
    watch = guard(num_explained=2)
    found = trained(build, with_bad(good), watch, epochs=1, **mode)
    assert [event.reproduced for event in watch.events] == [True, True, None, None]
    assert not differences(found, trained(build, good, guard(), epochs=1, **mode))


# -- what it does


def test_raise():
    """ "raise" stops at the first refused step with a diagnosis, and the model as it was."""
    model, other = model_of(), model_of()
    fit(other, batches(2), guard())
    with pytest.raises(ng.NonFiniteError, match=r"step 2 .* not finite .*stopped"):
        fit(model, [*batches(2), bad(), *batches(2)], guard(on_nonfinite="raise", num_explained=1))
    for old, new in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "train_step" not in vars(model)


def test_function():
    """A function is given each event and its answer is followed; None is to skip."""
    seen: list[Any] = []

    def decide(event: Any) -> Any:
        seen.append(event)
        return "raise" if len(seen) == 2 else None

    with pytest.raises(ng.NonFiniteError):
        fit(model_of(), [bad(), *batches(2), bad(), *batches(1)], guard(on_nonfinite=decide))
    assert [event.action for event in seen] == ["skip", "raise"]


def test_function_with_a_wrong_answer():
    """An answer that is no action is refused by name."""
    with pytest.raises(ng.UsageError, match="must return one of skip, rollback, raise"):
        fit(model_of(), [bad()], guard(on_nonfinite=lambda event: "stop"))


def test_max_in_row():
    """Too many refused steps in a row stop the run, with a diagnosis, finite weights and nothing applied."""
    model = model_of()
    before = model.get_weights()
    watch = guard(max_in_row=3, num_explained=1)
    with pytest.raises(
        ng.NonFiniteError, match="3 steps in a row were not finite, and none of them was applied"
    ) as caught:
        fit(model, [bad()] * 5, watch)
    assert "NG701" in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert watch.num_skipped == 3


def test_a_good_step_ends_the_row():
    """Refused steps that are not in a row do not stop the run."""
    parts = [part for good in batches(4) for part in (bad(), bad(), good)]
    watch = guard(max_in_row=3)
    fit(model_of(), parts, watch)
    assert watch.num_skipped == 8


class Harm(keras.callbacks.Callback):
    """Multiplies all weights before some batches, counted over all epochs, as a bit that flips in memory may do."""

    def __init__(self, *at: int) -> None:
        super().__init__()
        self.at = at
        self.place = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.place in self.at:
            for weight in self.model.trainable_variables:
                weight.assign(weight * 1e4)
        self.place += 1


class Lazy(keras.Model):
    """A model that has no weights before its first step."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = keras.layers.Dense(8), keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.last(self.hidden(x))


@pytest.mark.parametrize("new_model", [lambda: guardings.sequential(), Lazy], ids=["built", "not built"])
def test_rollback(new_model):
    """Weights that were broken in mid-training leave no trace: all batches are trained on as if it had not been."""
    ends = []
    for callbacks in ([Harm(5)], []):
        keras.utils.set_random_seed(1)
        model = compiled(new_model(), keras.optimizers.SGD(0.01), metrics=["mae"])
        watch = guard(on_nonfinite="rollback")
        fit(model, batches(8), watch, *callbacks)
        assert [event.action for event in watch.events] == ["rollback"] * len(callbacks)
        ends.append(everything(model))
    assert not differences(*ends)


@pytest.mark.long
def test_bad_batches_in_a_row_are_no_reason_to_go_back():
    """Batches that are bad in themselves are skipped, however many: no harm was done, and nothing is undone."""
    model = model_of(optimizer=keras.optimizers.SGD(0.01))
    watch = guard(on_nonfinite="rollback", snapshot_every=2)
    fit(model, [*batches(5), bad(), bad(), *batches(3)], watch)
    assert [event.action for event in watch.events] == ["skip", "skip"]
    assert int(model.optimizer.iterations) == 8


def test_rate_that_is_too_high():
    """A rate that is far too high is lowered until the training holds, and no batch is lost."""
    model = model_of(optimizer=keras.optimizers.SGD(1e4))
    watch = guard(on_nonfinite="rollback")
    history = fit(model, batches(12), watch)
    assert "rollback" in [event.action for event in watch.events]
    assert float(watch._updater.rate) < 0.01
    assert int(model.optimizer.iterations) == 12
    assert all(np.isfinite(value).all() for value in everything(model).values())
    assert np.isfinite(history["loss"]).all()


def test_rollbacks_end():
    """After `max_rollbacks` in a row the run is stopped, with the weights of the snapshot."""
    model = model_of(optimizer=keras.optimizers.SGD(0.01))
    watch = guard(on_nonfinite="rollback", max_rollbacks=2)
    with pytest.raises(ng.NonFiniteError, match="2 rollbacks did not help"):
        fit(model, batches(20), watch, Harm(5, 7, 9, 11))
    assert all(np.abs(weight).max() < 100 for weight in model.get_weights())


def test_steps_refused_in_a_row_have_a_capture_each(tmp_path):
    """The optimizer's count stands still while steps are refused; their files do not overwrite each other."""
    watch = ng.Guard(quarantine=tmp_path, verbose=False, num_explained=3)
    fit(model_of(), [*batches(1), bad(), bad(np.inf), bad(seed=98)], watch)
    assert len({event.capture for event in watch.events}) == 3
    assert all(Path(event.capture).exists() for event in watch.events)


def test_an_epoch_without_a_step_has_no_loss():
    """An epoch in which every batch was refused does not log the loss of nothing, which is 0 and the best of all."""
    history = fit(model_of(metrics=["mae"]), [bad(), bad()], guard(), epochs=2)
    assert np.isnan(history["loss"]).all()
    assert np.isnan(history["mae"]).all()
    assert history["nanguard/skipped"] == [2.0, 2.0]


def test_two_guards_are_refused():
    """The second guard of a `fit` says so, and the model trains on without them."""
    model = model_of()
    with pytest.raises(ng.UsageError, match="one Guard"):
        fit(model, batches(2), guard(), guard())
    fit(model, batches(2))


def test_what_to_do_is_not_taken_for_the_model():
    """A word in the first place is a slip that is told."""
    with pytest.raises(ng.UsageError, match="on_nonfinite="):
        ng.Guard("raise")


# -- one fit after another


@pytest.mark.long
def test_fit_twice_with_one_guard():
    """The same guard serves two fits of a model, and goes on counting."""
    good = batches(3)
    watch, model, other = guard(), model_of(), model_of()
    for _ in range(2):
        fit(model, with_bad(good), watch)
        fit(other, good, guard())
    assert watch.num_skipped == 8
    assert not differences(everything(model), everything(other))


@pytest.mark.long
def test_recompiled_between():
    """A model that was compiled anew, with another loss and optimizer, is guarded in its new form."""
    good, watch, model, other = batches(3), guard(), model_of(), model_of()
    for options in ({}, {"optimizer": keras.optimizers.SGD(0.1), "loss": "mae"}):
        for one in (model, other):
            if options:
                compiled(one, keras.optimizers.SGD(0.1), loss="mae", metrics=["mae"])
        fit(model, with_bad(good), watch)
        fit(other, good, guard())
    assert watch.num_skipped == 8
    assert not differences(everything(model), everything(other))


@pytest.mark.long
def test_one_guard_for_two_models():
    """The same guard serves another model afterwards."""
    watch = guard()
    for _ in range(2):
        model = model_of()
        fit(model, with_bad(batches(2)), watch)
        assert all(np.isfinite(value).all() for value in everything(model).values())
    assert watch.num_skipped == 8


@pytest.mark.long
def test_fit_without_the_guard_afterwards():
    """After a guarded fit the model trains as Keras does, and a NaN is a NaN again."""
    model = model_of()
    fit(model, with_bad(batches(2)), guard())
    history = fit(model, [bad()])
    assert "nanguard/skipped" not in history
    assert not np.isfinite(np.concatenate([w.ravel() for w in model.get_weights()])).all()


class Breaks(keras.callbacks.Callback):
    """Raises at the end of a batch."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")])
def test_fit_that_raises(error):
    """After an interrupt or another callback's error the same guard and model go on in another fit."""
    watch, model = guard(), model_of()
    with pytest.raises(type(error)):
        fit(model, batches(3), watch, Breaks(error))
    fit(model, with_bad(batches(2)), watch)
    assert watch.num_skipped == 4
    assert all(np.isfinite(value).all() for value in everything(model).values())
    assert "train_step" not in vars(model)


def test_interrupt_within_a_step():
    """An interrupt inside of an eager step comes out, and leaves the model its own train function."""

    class Interrupted(keras.layers.Layer):
        is_on = False

        def call(self, x: Any) -> Any:
            if Interrupted.is_on:
                raise KeyboardInterrupt
            return x

    model = compiled(sequential(Interrupted()), run_eagerly=True)
    fit(model, batches(1))
    Interrupted.is_on = True
    with pytest.raises(KeyboardInterrupt):
        fit(model, batches(2), guard())
    assert "train_step" not in vars(model)


# -- beside Keras's own callbacks


@pytest.mark.long
def test_keras_callbacks(tmp_path):
    """TerminateOnNaN does not fire; EarlyStopping, ReduceLROnPlateau, ModelCheckpoint and BackupAndRestore work."""
    callbacks = keras.callbacks
    model, other = model_of(), model_of()
    good = batches(3)

    def all_of(name: str) -> list[Any]:
        return [
            callbacks.TerminateOnNaN(),
            callbacks.EarlyStopping("loss", patience=3),
            callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=100.0),
            callbacks.ModelCheckpoint(tmp_path / name / "{epoch}.keras"),
            callbacks.BackupAndRestore(tmp_path / name / "backup"),
        ]

    watch = guard()
    found = fit(model, with_bad(good), *all_of("bad"), watch, epochs=3)
    expected = fit(other, good, *all_of("good"), guard(), epochs=3)
    assert len(found["loss"]) == 3
    assert found["loss"] == expected["loss"]
    assert found["learning_rate"] == expected["learning_rate"]
    assert watch.num_skipped == 12
    assert not differences(everything(model), everything(other))
    again = keras.models.load_model(tmp_path / "bad" / "3.keras")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_validation():
    """Validation runs on finite weights, and its logs are Keras's own."""
    good, data = batches(3), dataset(batches(2, seed=5))
    found = fit(model_of(), with_bad(good), guard(), epochs=2, validation_data=data)
    expected = fit(model_of(), good, guard(), epochs=2, validation_data=data)
    plain = fit(model_of(), good, epochs=2, validation_data=data)
    assert set(plain) < set(found)
    for key in plain:
        assert found[key] == expected[key] == plain[key], key


# -- all kinds of data


class Sequence(keras.utils.PyDataset):
    def __init__(self, parts: list[Any]) -> None:
        super().__init__()
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> Any:
        return self.parts[place]


def generator(parts: list[Any]) -> Any:
    while True:
        yield from parts


@pytest.mark.parametrize(
    "kind",
    [
        "arrays",
        "PyDataset",
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("dataset", "generator", "weighted", "class_weight")),
    ],
)
def test_data(kind):
    """Arrays, data sets, generators and PyDatasets, sample and class weights: each bad batch is refused, rows told."""
    good = batches(3)
    models = []
    for parts in (with_bad(good), good):
        model = model_of()
        options: dict[str, Any] = {}
        if kind == "arrays":
            x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
            data: Any = {"x": x, "y": y, "batch_size": guardings.ROWS}
        elif kind == "dataset":
            data = {"x": dataset(parts)}
        elif kind == "generator":
            data = {"x": generator(parts), "steps_per_epoch": len(parts)}
        elif kind == "PyDataset":
            data = {"x": Sequence(parts)}
        elif kind == "weighted":
            data = {"x": dataset([(x, y, np.linspace(0, 1, guardings.ROWS, dtype="float32")) for x, y in parts])}
        else:
            data = {"x": dataset([(x, (y > 0).astype("int32")) for x, y in parts]), "class_weight": {0: 1.0, 1: 3.0}}
        watch = guard()
        model.fit(**data, epochs=2, shuffle=False, verbose=0, callbacks=[watch], **options)
        models.append(model)
        assert watch.num_skipped == (0 if parts is good else 8)
        assert all(event.rows == (3,) for event in watch.events)
    assert not differences(*map(everything, models))


@pytest.mark.parametrize(
    "mode",
    [{}, *(pytest.param(mode, marks=pytest.mark.long) for mode in ({"jit_compile": True}, {"steps_per_execution": 2}))],
)
def test_ragged_last_batch(mode):
    """A last batch that is smaller is refused, or trained on, like any other."""
    good = batches(2)
    models = []
    for parts in ([good[0], bad(), good[1]], good):
        x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
        x, y = np.concatenate([x, good[0][0][:3]]), np.concatenate([y, good[0][1][:3]])
        model = model_of(**mode)
        model.fit(x, y, batch_size=guardings.ROWS, epochs=2, shuffle=False, verbose=0, callbacks=[guard()])
        models.append(model)
    assert not differences(*map(everything, models))


def test_a_bad_ragged_batch():
    """The rows of a smaller last batch are told by their place in it."""
    x, y = (np.concatenate(column) for column in zip(*batches(3), strict=True))
    x, y = x[:-5], y[:-5]
    x[-1, 0] = np.nan
    watch = guard()
    model_of().fit(x, y, batch_size=guardings.ROWS, shuffle=False, verbose=0, callbacks=[watch])
    (event,) = watch.events
    assert (event.batch, event.rows) == (2, (2,))


# -- passing faults


class Faulty(keras.layers.Layer):
    """Gives a NaN once: in the call whose number it is given."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.number, self.fails_at = 0, call

    def _next(self) -> np.ndarray:
        self.number += 1
        return np.float32(np.nan if self.number == self.fails_at else 0.0)

    def call(self, x: Any) -> Any:
        fault = tf.numpy_function(self._next, [], tf.float32)
        return x + tf.ensure_shape(fault, ())


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_a_passing_fault_is_told_apart(mode):
    """A step that is finite when it is run again is said to be not reproducible, counted apart, and skipped too."""
    layer = Faulty(0)
    model = compiled(sequential(layer), **mode)
    model.build((None, guardings.FEATURES))
    layer.number, layer.fails_at = 0, 2
    watch = guard(num_explained=3)
    fit(model, [*batches(3)], watch)
    (event,) = watch.events
    assert event.reproduced is False
    assert (watch.num_skipped, watch.num_not_reproducible) == (1, 1)
    assert "not reproducible" in event.headline()
    assert "1 of them not reproducible" in watch.summary()
    assert all(np.isfinite(value).all() for value in everything(model).values())


# -- bad arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_nonfinite": "stop"}, "`on_nonfinite` must be one of skip, rollback, raise"),
        ({"max_in_row": 0}, "`max_in_row` must be at least 1. Received: max_in_row=0"),
        ({"num_explained": -1}, "`num_explained` must be at least 0"),
        ({"snapshot_every": 0}, "`snapshot_every` must be at least 1"),
        ({"max_rollbacks": 0}, "`max_rollbacks` must be at least 1"),
        ({"backoff": 0.0}, "`backoff` must lie in"),
        ({"backoff": float("nan")}, "`backoff` must lie in"),
        ({"warmup": -1}, "`warmup` must be at least 0"),
        ({"clip": "none"}, "`clip` must be"),
    ],
)
def test_bad_arguments(options, message):
    """Each bad argument is refused by name, with what came."""
    with pytest.raises(ng.UsageError, match=message):
        ng.Guard(**options)


def test_apply_without_an_optimizer():
    """Outside of `fit` the guard needs an optimizer, and says so."""
    with pytest.raises(ng.UsageError, match="needs an optimizer"):
        guard().apply([tf.constant([1.0])], [keras.Variable([1.0])])


def test_a_spike_names_the_layers_that_grew():
    """The event of a spike has the gradient norm of each weight, and names those that jumped."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(960, 3)).astype("float32")
    y = x[:, :1].copy()
    y[-8:] = 1e6
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name="first"), keras.layers.Dense(1, name="last")]
    )
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False)
    watch = ng.Guard(quarantine=None, verbose=False)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[watch])
    (event,) = watch.events
    assert (event.reason, event.action, event.batch) == ("spike", "none", 119)
    assert set(event.norms) == {weight.path for weight in model.trainable_variables}
    assert {name for name, growth in event.grown if growth > 100} == set(event.norms)
    assert event.grown[0][0] in event.headline()
