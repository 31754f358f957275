"""Checkpoints: a training that was interrupted anywhere ends as one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kills import trainings
from nanguard.errors import UsageError
from nanguard.guard import _folders
from nanguard.guard.callback import Guard
from nanguard.guard.checkpoint import Checkpoint, Position
from nanguard.guard.variables import raw

layers = keras.layers


class Interrupted(Exception):
    """What stands for a kill here; kills/ has real ones."""


class Interrupt(keras.callbacks.Callback):
    """Ends a training in the middle of an epoch."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = iter(range(after))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if next(self._left, None) is None:
            raise Interrupted


class Gan(keras.Model):
    """Two optimizers, metrics and a step of its own, and nothing that Keras could build."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = keras.Sequential([layers.Dense(4, activation="relu"), layers.Dense(6)])
        self.judge = keras.Sequential([layers.Dense(4, activation="relu"), layers.Dropout(0.2), layers.Dense(1)])
        self.optimizers = {"maker": keras.optimizers.Adam(1e-2), "judge": keras.optimizers.SGD(1e-2, momentum=0.9)}
        self.seen = keras.metrics.Mean("seen")
        self.seed = keras.random.SeedGenerator(3)

    @property
    def metrics(self) -> list[Any]:
        return [self.seen]

    def train_step(self, data: Any) -> dict[str, Any]:
        real, _ = data
        noise = keras.random.normal((tf.shape(real)[0], 3), seed=self.seed)
        with tf.GradientTape(persistent=True) as tape:
            fake = self.maker(noise, training=True)
            judged = tf.nn.softplus(self.judge(fake, training=True)) + tf.nn.softplus(-self.judge(real, training=True))
            fooled = tf.nn.softplus(-self.judge(fake, training=True))
        for name, loss, part in (("judge", judged, self.judge), ("maker", fooled, self.maker)):
            grads = tape.gradient(loss, part.trainable_variables)
            self.optimizers[name].apply_gradients(zip(grads, part.trainable_variables, strict=True))
        self.seen.update_state(judged)
        return {"seen": self.seen.result()}


class Draws(layers.Layer):
    """Noise from Keras's global generator."""

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(tf.shape(x), stddev=0.1)


def fit_gan(callbacks: list[Any]) -> keras.Model:
    """A model that only a step can build."""
    model = Gan()
    model.compile()
    model.fit(*trainings.arrays(), batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
    return model


def fit_generator(callbacks: list[Any]) -> keras.Model:
    """A generator without an end, that draws from NumPy's global generator ahead of the training."""

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            x = np.random.normal(size=(8, 6)).astype("float32")
            yield x, x.sum(axis=1, keepdims=True)

    model = trainings.network()
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(rows(), steps_per_epoch=5, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)
    return model


def fit_shuffled_py_dataset(callbacks: list[Any]) -> keras.Model:
    """A PyDataset that Keras shuffles with Python's global generator, in two threads."""
    data = trainings.Rows(*trainings.arrays())
    data.workers = 2
    model = trainings.network()
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(data, epochs=3, verbose=0, shuffle=True, callbacks=callbacks)
    return model


def fit_repeated(callbacks: list[Any]) -> keras.Model:
    """An endless data set, whose epochs end in the middle of it."""
    data = tf.data.Dataset.from_tensor_slices(trainings.arrays()).shuffle(48).repeat().batch(7)
    model = trainings.network()
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(data, steps_per_epoch=5, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)
    return model


def fitted(**options: Any) -> Callable[[list[Any]], keras.Model]:
    """A training on arrays, compiled with these options."""

    def train(callbacks: list[Any]) -> keras.Model:
        shuffle = options.pop("shuffle", True) if "shuffle" in options else True
        model = keras.Sequential([Draws(), trainings.network()])
        model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"], **options)
        x, y = trainings.arrays()
        model.fit(x[:45], y[:45], batch_size=8, epochs=3, verbose=0, shuffle=shuffle, callbacks=callbacks)
        return model

    return train


WAYS: dict[str, Callable[[list[Any]], keras.Model]] = {
    **{name: train for name, (train, _) in trainings.TRAININGS.items()},
    "eager": fitted(run_eagerly=True),
    "XLA": fitted(jit_compile=True),
    "two steps per execution": fitted(steps_per_execution=2),
    "GAN": fit_gan,
    "generator": fit_generator,
    "PyDataset in threads": fit_shuffled_py_dataset,
    "repeated data set": fit_repeated,
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Each test begins without a policy or a generator of another one."""
    yield
    keras.mixed_precision.set_dtype_policy("float32")
    keras.backend.clear_session()


def outcome(train: Callable[[list[Any]], keras.Model], callbacks: list[Any]) -> tuple[list[bytes], dict[str, Any]]:
    """Gives all state at the end of a training, to the bit, and its history."""
    keras.backend.clear_session()
    keras.mixed_precision.set_dtype_policy("float32")
    model = trainings.seeded(train, callbacks)
    state = [*model.variables, *(getattr(model, "optimizer", None) or keras.optimizers.SGD()).variables]
    return [raw(variable).numpy().tobytes() for variable in state], model.history.history


# NumPy 2 says it of the way in which Keras's ReduceLROnPlateau reads the rate.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "every"),
    [
        *(pytest.param(name, 1, marks=[] if name == "arrays" else pytest.mark.long) for name in WAYS),
        pytest.param("arrays", 3, marks=pytest.mark.long),
        ("tf.data", "epoch"),
        ("EarlyStopping", "epoch"),
    ],
)
def test_resumed_training_ends_alike(
    name: str, every: int | str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training that is interrupted again and again ends with the bits and the history of one that is not."""
    whole = outcome(WAYS[name], [])
    # Batches of a run before it is interrupted; two steps in one call are half as many calls.
    places = (2, 3) if name == "two steps per execution" else (4, 7) if every == 1 else (8, 9)
    for after in places:
        with pytest.raises(Interrupted):
            outcome(WAYS[name], [Checkpoint(tmp_path, every=every), Interrupt(after)])
    assert outcome(WAYS[name], [Checkpoint(tmp_path, every=every)]) == whole
    again = outcome(WAYS[name], [Checkpoint(tmp_path, every=every)])
    assert again == whole
    assert "is the end of this training" in capsys.readouterr().err


def test_no_bit_changes(tmp_path: Path) -> None:
    """A training with checkpoints ends as one without."""
    assert outcome(trainings.on_arrays, [Checkpoint(tmp_path, every=2)]) == outcome(trainings.on_arrays, [])


@pytest.mark.long
def test_more_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished training goes on if it is given more epochs."""
    whole = outcome(trainings.on_arrays, [])
    monkeypatch.setattr(trainings, "EPOCHS", 3)
    outcome(trainings.on_arrays, [Checkpoint(tmp_path)])
    monkeypatch.undo()
    assert outcome(trainings.on_arrays, [Checkpoint(tmp_path)]) == whole


def test_whole_epochs_of_arrays_are_not_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras shuffles arrays anew from the seed in every epoch, so that only the last whole epoch is pulled."""
    from nanguard.guard import _resume

    with pytest.raises(Interrupted):
        outcome(trainings.on_arrays, [Checkpoint(tmp_path), Interrupt(26)])
    pulled = []
    pull = _resume.FastForward._pull
    monkeypatch.setattr(_resume.FastForward, "_pull", lambda self, it: pulled.append(1) or pull(self, it))
    outcome(trainings.on_arrays, [Checkpoint(tmp_path)])
    assert len(pulled) == 6


def test_nonfinite_state_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state with a NaN in it is not written; one line says so, and the last good one stays."""

    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                slot = self.model.optimizer.variables[2]
                slot.assign(slot + np.inf)

    outcome(trainings.on_arrays, [Checkpoint(tmp_path), Poison()])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "values that are not finite; the last good one stays" in lines[0]
    ((_, path),) = _folders.numbered(tmp_path)
    assert _folders.read(path)["position"]["epoch"] == 1


def test_a_metric_may_be_infinite(tmp_path: Path) -> None:
    """Only weights, slots and layer state must be finite."""
    model = trainings.network()
    model.build((None, 6))
    model.worst = keras.metrics.Mean()
    model.worst.update_state(np.inf)
    assert Checkpoint(tmp_path).save(1, model) is not None


@pytest.mark.parametrize(
    "harm",
    [
        "cut tensors", "changed record",
        *(pytest.param(harm, marks=pytest.mark.long) for harm in ("changed tensors", "cut record", "no record")),
    ],
)  # fmt: skip
def test_damaged_checkpoint_is_passed_over(harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that the disk has damaged is found out, and the one before it taken."""
    whole = outcome(trainings.on_arrays, [])
    with pytest.raises(Interrupted):
        outcome(trainings.on_arrays, [Checkpoint(tmp_path), Interrupt(20)])
    _, path = _folders.numbered(tmp_path)[-1]
    tensors, record = path / "state.data-00000-of-00001", path / _folders.RECORD
    damaged = bytearray(tensors.read_bytes())
    damaged[300] ^= 1
    {
        "cut tensors": lambda: tensors.write_bytes(tensors.read_bytes()[:-9]),
        "changed tensors": lambda: tensors.write_bytes(bytes(damaged)),
        "cut record": lambda: record.write_text(record.read_text()[:500]),
        "changed record": lambda: record.write_text(record.read_text().replace('\\"epoch\\": 3', '\\"epoch\\": 1')),
        "no record": record.unlink,
    }[harm]()
    assert outcome(trainings.on_arrays, [Checkpoint(tmp_path)]) == whole
    assert f"{path} is damaged" in capsys.readouterr().err


def test_keep_and_leftovers(tmp_path: Path) -> None:
    """As many checkpoints stay as were asked for, and what a killed run left half-written goes."""
    for leftover in (".writing-00000009", ".removing-checkpoint-00000001"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "state.index").write_bytes(b"torn")
    (tmp_path / "notes.txt").write_text("the user's own")
    outcome(trainings.on_arrays, [Checkpoint(tmp_path, keep=2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-00000005",
        "checkpoint-00000006",
        "notes.txt",
    ]


def test_tensorflow_reads_it(tmp_path: Path) -> None:
    """The tensors are in TensorFlow's own format, under names that tell what they are."""
    model = trainings.seeded(trainings.on_arrays, [Checkpoint(tmp_path)])
    _, path = _folders.numbered(tmp_path)[-1]
    reader = tf.train.load_checkpoint(str(path / "state"))
    np.testing.assert_array_equal(reader.get_tensor(f"model/0000/{model.weights[0].path}"), model.weights[0])


@pytest.mark.long
def test_logs_go_on(tmp_path: Path) -> None:
    """A CSVLogger's file and the history are those of a training that was not interrupted."""

    def logged(name: str, *more: Any) -> str:
        path = tmp_path / f"{name}.csv"
        logger = keras.callbacks.CSVLogger(str(path))
        try:
            outcome(trainings.on_arrays, [*more, logger])
        finally:
            logger.csv_file.close()
        return path.read_text()

    whole = logged("whole")
    for after in (10, 11):
        with pytest.raises(Interrupted):
            logged("resumed", Checkpoint(tmp_path / "ckpt", every=4), Interrupt(after))
    assert logged("resumed", Checkpoint(tmp_path / "ckpt", every=4)) == whole
    assert logged("resumed", Checkpoint(tmp_path / "ckpt", every=4)) == whole


def test_progress_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The progress bar shows the epoch that goes on, and none that was done."""
    x, y = np.ones((24, 2)), np.ones((24, 1))

    def train(*more: Any) -> None:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(x, y, batch_size=8, epochs=3, verbose=2, callbacks=[Checkpoint(tmp_path, every=1), *more])

    with pytest.raises(Interrupted):
        train(Interrupt(5))
    capsys.readouterr()
    train()
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("Epoch")] == ["Epoch 2/3", "Epoch 3/3"]


@pytest.mark.long
def test_guard_like_callback_takes_part(tmp_path: Path) -> None:
    """A callback with `nanguard_state` gets its state and its variables back."""

    class Counting(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0
            self.nanguard_variables = [tf.Variable(0, dtype=tf.int64)]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen += 1
            self.nanguard_variables[0].assign_add(2)

        def nanguard_state(self) -> dict[str, Any]:
            return {"seen": self.seen}

        def restore_nanguard_state(self, state: dict[str, Any]) -> None:
            self.seen = state["seen"]

    with pytest.raises(Interrupted):
        outcome(trainings.on_arrays, [Counting(), Checkpoint(tmp_path, every=5), Interrupt(17)])
    counting = Counting()
    outcome(trainings.on_arrays, [counting, Checkpoint(tmp_path, every=5)])
    assert counting.seen == 30
    assert int(counting.nanguard_variables[0]) == 60


def test_with_the_guard(tmp_path: Path) -> None:
    """A guarded training with bad rows ends alike, its logs and counts too."""

    def guarded(*more: Any) -> tuple[Any, int]:
        guard = Guard(quarantine=None, num_explained=0, verbose=False)
        return outcome(trainings.on_bad_rows, [guard, *more]), guard.num_skipped

    whole = guarded()
    with pytest.raises(Interrupted):
        guarded(Checkpoint(tmp_path, every=2), Interrupt(14))
    assert guarded(Checkpoint(tmp_path, every=2)) == whole
    assert whole[1] == 10


@pytest.mark.long
def test_changed_option_of_a_callback_stays_changed(tmp_path: Path) -> None:
    """What a callback remembers comes back; what the user has changed in the script does not."""
    with pytest.raises(Interrupted):
        outcome(
            trainings.on_arrays,
            [Checkpoint(tmp_path), keras.callbacks.EarlyStopping("loss", patience=7), Interrupt(14)],
        )
    stopping = keras.callbacks.EarlyStopping("loss", min_delta=0, patience=9)
    outcome(trainings.on_arrays, [Checkpoint(tmp_path), stopping])
    assert stopping.patience == 9


def test_custom_loop(tmp_path: Path) -> None:
    """`save` and `restore` bring a loop of one's own to the same bits, with the random numbers that it draws."""

    def train(stop: int | None) -> bytes:
        keras.backend.clear_session()
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dropout(0.5), layers.Dense(1)])
        optimizer = keras.optimizers.Adam(1e-2)
        checkpoint = Checkpoint(tmp_path / str(stop is None and tmp_path.exists()))
        place = checkpoint.restore(model, optimizer) if stop != -1 else None
        for step in range(place.step if place else 0, 9):
            if step == stop:
                raise Interrupted
            x = tf.random.normal((8, 6)) + np.random.normal() + random.random()
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - 1) ** 2)
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            if stop != -1:
                checkpoint.save(step + 1, model, optimizer, extra={"loss": [float(loss)]})
        return b"".join(raw(v).numpy().tobytes() for v in [*model.variables, *optimizer.variables])

    whole = train(-1)
    with pytest.raises(Interrupted):
        train(5)
    (tmp_path / "False").rename(tmp_path / "True")
    assert train(None) == whole
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dropout(0.5), layers.Dense(1)])
    found = Checkpoint(tmp_path / "True").restore(model, keras.optimizers.Adam())
    assert isinstance(found, Position)
    assert found.step == 9
    assert set(found.extra) == {"loss"}


def test_weights_for_use(tmp_path: Path) -> None:
    """A checkpoint of `fit` can be set in a model that was built and compiled alike, outside `fit`."""
    trained = trainings.seeded(trainings.on_arrays, [Checkpoint(tmp_path)])
    model = trainings.network()
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.build((None, 6))
    model.optimizer.build(model.trainable_variables)
    place = Checkpoint(tmp_path).restore(model)
    assert place == Position(step=30, epoch=5, batch=0, finished=True)
    np.testing.assert_array_equal(model.get_weights()[0], trained.get_weights()[0])


def test_other_model_is_refused(tmp_path: Path) -> None:
    """A checkpoint of another model is an error that says what differs."""
    outcome(trainings.on_arrays, [Checkpoint(tmp_path)])

    def other(callbacks: list[Any]) -> keras.Model:
        model = keras.Sequential([layers.Dense(5), layers.Dense(1)])
        model.compile("adam", "mse")
        model.fit(*trainings.arrays(), epochs=9, verbose=0, callbacks=callbacks)
        return model

    with pytest.raises(UsageError, match=r"must be those that the checkpoint was written with. Received: model/0000"):
        outcome(other, [Checkpoint(tmp_path)])


def test_shorter_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that ends before the checkpoint's position is an error."""
    with pytest.raises(Interrupted):
        outcome(trainings.on_data_set, [Checkpoint(tmp_path, every=1), Interrupt(5)])
    arrays = trainings.arrays
    monkeypatch.setattr(trainings, "arrays", lambda: tuple(part[:20] for part in arrays()))
    with pytest.raises(UsageError, match="The input must be the one"):
        outcome(trainings.on_data_set, [Checkpoint(tmp_path, every=1)])


def test_missing_seed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run without a seed is told that its data comes in another order."""
    with pytest.raises(Interrupted):
        outcome(trainings.on_arrays, [Checkpoint(tmp_path), Interrupt(8)])
    tf.random.set_seed(12)
    trainings.on_arrays([Checkpoint(tmp_path)])
    assert "the seed was 11 and is 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "`keep` must be an integer of at least 1. Received: keep=0."),
        ({"keep": True}, "`keep` must be"),
        ({"every": 0}, '`every` must be "epoch", a number of batches, or a time. Received: every=0.'),
        ({"every": "10 minutes"}, "`every` must be"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A bad argument is refused in one line."""
    with pytest.raises(UsageError, match=message) as error:
        Checkpoint(tmp_path, **options)
    assert "\n" not in str(error.value)


def test_two_checkpoints_are_refused(tmp_path: Path) -> None:
    """One `fit` has one Checkpoint."""
    with pytest.raises(UsageError, match="must have one Checkpoint"):
        outcome(trainings.on_arrays, [Checkpoint(tmp_path / "a"), Checkpoint(tmp_path / "b")])


def test_extra_must_be_plain(tmp_path: Path) -> None:
    """What `save` cannot give back it does not take."""
    with pytest.raises(UsageError, match=r"`extra` must hold plain values. Received: a object"):
        Checkpoint(tmp_path).save(1, trainings.network(), extra=object())


@pytest.mark.long
def test_time_between_checkpoints(tmp_path: Path) -> None:
    """A time as `every` writes at the next batch after it."""
    outcome(trainings.on_arrays, [Checkpoint(tmp_path, every="0.0s", keep=100)])
    assert len(_folders.numbered(tmp_path)) == 31 + 5
    shutil.rmtree(tmp_path)
    outcome(trainings.on_arrays, [Checkpoint(tmp_path, every="1h", keep=100)])
    assert len(_folders.numbered(tmp_path)) == 1


MIRRORED = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from kills import trainings
from nanguard.guard.checkpoint import Checkpoint
from nanguard.guard.variables import raw

class Interrupted(Exception): pass
class Interrupt(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self._left = iter(range(after))
    def on_train_batch_begin(self, batch, logs=None):
        if next(self._left, None) is None: raise Interrupted

def train(*callbacks):
    keras.backend.clear_session()
    keras.utils.set_random_seed(11)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = trainings.network()
        model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(*trainings.arrays(), batch_size=8, epochs=2, verbose=0, callbacks=list(callbacks))
    state = [*model.variables, *model.optimizer.variables]
    return [part.numpy().tobytes().hex() for v in state for part in raw(v)._values]

whole = train()
for after in (2, 5):
    try: train(Checkpoint(sys.argv[1], every=1), Interrupt(after))
    except Interrupted: pass
print(json.dumps(train(Checkpoint(sys.argv[1], every=1)) == whole))
"""


@pytest.mark.long
def test_mirrored_strategy(tmp_path: Path) -> None:
    """On two replicas each one's state comes back."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", MIRRORED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) is True
    assert "goes on from" in done.stderr
