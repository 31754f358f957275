"""The quarantine: what is put in comes out to the last bit, and no kill, full disk or forged file does harm."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute.values import PerReplica

from nanguard.errors import UsageError
from nanguard.guard import batches
from nanguard.guard.quarantine import Quarantine

Pair = namedtuple("Pair", "x y")
X = np.arange(6, dtype="float32").reshape(2, 3)

BATCHES: dict[str, Any] = {
    "tuple": (X, np.array([0, 1]), None),
    "list": [X, [X, (X,)]],
    "dict": ({"age": tf.constant([1.0, float("nan")]), 3: X, (1, "a"): X}, tf.constant([[1], [2]])),
    "named": Pair(X, np.array([True, False])),
    "bfloat16": tf.cast(tf.constant([1.0, float("nan"), 3e38]), tf.bfloat16),
    "float8": tf.cast(tf.constant([1.0, 2.0]), tf.dtypes.as_dtype("float8_e4m3fn")),
    "half": np.array([1, np.inf], "float16"),
    "complex": np.array([1 + 2j, np.nan]),
    "big-endian": X.astype(">f4"),
    "strided": X[:, ::2],
    "empty": np.zeros((0, 3), "int64"),
    "0-d": (tf.constant(3.0), np.float64(2.5), np.array(7)),
    "strings": (
        tf.constant([[b"a"], [b"\xff\x00"]]),
        np.array(["ä", "xyz"]),
        np.array([b"q"]),
        np.array(["x"], object),
    ),
    "no-strings": (tf.constant([], tf.string), np.array([], "U4")),
    "plain": (1, 2.5, float("nan"), True, "text", b"bytes", 10**30, 1j),
    "ragged": tf.ragged.constant([[[1.0, 2.0], []], [[3.0]]]),
    "ragged-inner": tf.RaggedTensor.from_row_splits(tf.ones([3, 2]), [0, 1, 3]),
    "ragged-text": tf.ragged.constant([["a"], ["b", "c"]]),
    "sparse": (tf.sparse.from_dense([[0.0, 1.0], [2.0, 0.0]]), X),
    "dates": np.array(["2020-01-01", "NaT"], "datetime64[D]"),
    "none": None,
}


def same(a: Any, b: Any) -> None:
    """Asserts that two batches are alike in structure, dtype and bits."""
    if isinstance(a, dict):
        assert isinstance(b, dict)
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (tuple, list)):
        assert isinstance(b, list if isinstance(a, list) else tuple)
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, tf.RaggedTensor):
        assert isinstance(b, tf.RaggedTensor)
        same(a.flat_values, b.flat_values)
        same(list(a.nested_row_splits), list(b.nested_row_splits))
    elif isinstance(a, tf.SparseTensor):
        for name in ("indices", "values", "dense_shape"):
            same(getattr(a, name), getattr(b, name))
    elif isinstance(a, tf.Tensor):
        assert isinstance(b, tf.Tensor)
        assert a.dtype == b.dtype
        same(a.numpy(), b.numpy())
    elif isinstance(a, (np.ndarray, np.generic)):
        assert type(a) is type(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tolist() == b.tolist() if a.dtype.kind == "O" else a.tobytes() == b.tobytes()
    else:
        assert type(a) is type(b)
        assert repr(a) == repr(b)


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    """A quarantine in a folder that does not exist yet."""
    return Quarantine(tmp_path / "bad" / "batches")


def names(folder: Path) -> list[str]:
    """All files of a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("name", BATCHES)
def test_round_trip(quarantine: Quarantine, name: str):
    """Every structure comes back as it was, in structure, dtype and bits, with nothing pickled."""
    path = quarantine.put(BATCHES[name], step=3)
    assert path is not None
    same(BATCHES[name], quarantine.load(path)[0])


def test_manifest_and_plain_numpy(quarantine: Quarantine):
    """The manifest says what was given, and `numpy.load` opens the file without pickle."""
    path = quarantine.put(
        (X, X),
        step=412,
        epoch=2,
        rows=[np.int64(1)],
        cause="log_of_zero",
        why="the log of 0",
        seen_in=("loss",),
        capture=Path("step.capture"),
    )
    manifest = quarantine.load(path)[1]
    given = {name: manifest[name] for name in ("step", "epoch", "rows", "cause", "why", "seen_in", "capture")}
    assert given == {
        "step": 412,
        "epoch": 2,
        "rows": [1],
        "cause": "log_of_zero",
        "why": "the log of 0",
        "seen_in": ["loss"],
        "capture": "step.capture",
    }
    with np.load(path, allow_pickle=False) as opened:
        assert json.loads(opened["manifest.json"]) == manifest
        np.testing.assert_array_equal(opened["array0"], X)
    assert names(path.parent) == ["index.jsonl", path.name]


def test_what_cannot_be_kept_is_described(quarantine: Quarantine):
    """An object that is no array is named in the structure and comes back as None; the rest is kept."""
    path = quarantine.put((X, object(), np.array([object()])), step=0)
    batch, manifest = quarantine.load(path)
    same((X, None, None), batch)
    assert [item["kind"] for item in manifest["structure"]["items"]] == ["leaf", "lost", "lost"]


def test_values_of_replicas(quarantine: Quarantine):
    """What a strategy has dealt out comes back in one piece; parts that make no one tensor come as a tuple."""
    rows = PerReplica((tf.constant([[1.0], [2.0]]), tf.zeros([0, 1]), tf.constant([[3.0]])))
    ragged = PerReplica((tf.ragged.constant([[1], [2, 3]]), tf.ragged.constant([[4]])))
    sparse = PerReplica(tuple(tf.sparse.from_dense(part) for part in ([[0, 1]], [[2, 0]])))
    scalars = PerReplica((tf.constant(1.0), tf.constant(2.0)))
    path = quarantine.put((rows, ragged, sparse, scalars), step=0)
    whole, whole_ragged, whole_sparse, apart = quarantine.load(path)[0]
    assert whole.numpy().tolist() == [[1.0], [2.0], [3.0]]
    assert whole_ragged.to_list() == [[1], [2, 3], [4]]
    assert tf.sparse.to_dense(whole_sparse).numpy().tolist() == [[0, 1], [2, 0]]
    assert [part.numpy() for part in apart] == [1.0, 2.0]


def test_bad_rows_are_counted_through_all_replicas():
    """A row is that of the batch: the parts of the replicas before it are counted in, an empty one and text too."""
    nan = float("nan")
    x = PerReplica((tf.constant([[1.0], [2.0]]), tf.zeros([0, 1]), tf.constant([[nan], [3.0]])))
    y = PerReplica((tf.constant([nan, 0.0]), tf.zeros([0]), tf.constant([0.0, 0.0])))
    assert batches.bad_rows({"x": x, "y": y, "name": tf.constant(["a", "b"]), "none": None}) == (0, 2)
    assert batches.bad_rows((tf.ones([2, 2]), np.arange(3))) is None


def test_entries_are_what_the_files_are(quarantine: Quarantine):
    """The overview follows the files: without the index, with half a line of it, with a file gone or a file damaged."""
    paths = [quarantine.put((X, step), step=step, why=f"why {step}") for step in range(4)]
    index = quarantine.folder / "index.jsonl"
    listed = [entry.manifest["why"] for entry in quarantine.entries()]
    assert listed == ["why 0", "why 1", "why 2", "why 3"]

    whole = index.read_text()
    index.write_text(whole[:-30])
    assert [entry.manifest["why"] for entry in quarantine.entries()] == listed
    assert index.read_text() == whole
    index.unlink()
    assert [entry.manifest["why"] for entry in Quarantine(quarantine.folder).entries()] == listed
    assert index.read_text() == whole

    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    entries = quarantine.entries()
    assert [entry.problem is None for entry in entries] == [True, False, True]
    assert len(index.read_text().splitlines()) == 2


def test_the_same_batch_is_stored_once(quarantine: Quarantine):
    """A batch that comes again, in a later epoch or in a resumed run, gets the file that is there."""
    first = quarantine.put((X, X), step=3)
    assert Quarantine(quarantine.folder).put((X, X), step=3) == first
    assert quarantine.put((X, X + 1), step=3) != first
    assert quarantine.put((X, X), step=4) == first
    assert len(quarantine.entries()) == 2
    first.unlink()
    assert quarantine.put((X, X), step=4) not in (None, first)


def test_full_stops_storing(tmp_path: Path):
    """At the bound nothing more is stored, nothing is removed, it is told once, and what did not fit is counted."""
    quarantine = Quarantine(tmp_path, max_bytes=20_000)
    with pytest.warns(RuntimeWarning, match="does not fit") as told:
        stored = [quarantine.put(np.full(1000, step, "float32"), step=step) for step in range(8)]
    assert len(told) == 1
    assert [path is not None for path in stored] == [True] * 4 + [False] * 4
    assert (quarantine.num_stored, quarantine.num_unstored) == (4, 4)
    assert quarantine.put(np.zeros(3), step=9) is not None


def test_oldest_goes_where_that_is_asked_for(tmp_path: Path):
    """With `policy="oldest"` the newest batches stay, within the bound; one that is too large itself removes none."""
    quarantine = Quarantine(tmp_path, max_bytes=20_000, policy="oldest")

    def put(steps: range) -> None:
        for step in steps:
            os.utime(quarantine.put(np.full(1000, step, "float32"), step=step), (step, step))

    put(range(4))
    with pytest.warns(RuntimeWarning, match="oldest batches are removed") as told:
        put(range(4, 8))
    assert len(told) == 1
    assert quarantine.num_removed == 4
    assert [entry.manifest["step"] for entry in quarantine.entries()] == [4, 5, 6, 7]
    with pytest.warns(RuntimeWarning, match="does not fit"):
        assert quarantine.put(np.zeros(10_000), step=9) is None
    assert len(quarantine.entries()) == 4


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_disk_full(quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch, call: str):
    """A full disk is one warning and no exception; nothing half-written stays, and with room again storing goes on."""

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.warns(RuntimeWarning, match="No space left on device") as told:
            assert [quarantine.put(X, step=step) for step in range(2)] == [None, None]
    assert len(told) == 1
    assert quarantine.num_unstored == 2
    assert names(quarantine.folder) == []
    assert quarantine.put(X, step=2) is not None


def test_folder_that_cannot_be_made(tmp_path: Path):
    """A folder that cannot be made is one warning, and no exception even where warnings are errors."""
    (tmp_path / "file").write_text("")
    quarantine = Quarantine(tmp_path / "file" / "batches")
    assert quarantine.entries() == []
    with pytest.warns(RuntimeWarning, match="could not be stored"):
        assert quarantine.put(X, step=0) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Quarantine(tmp_path / "file" / "batches").put(X, step=0) is None


def test_torn_and_forged_files(quarantine: Quarantine):
    """A file that was cut anywhere, or had a byte flipped in it, is read right or refused in one line."""
    path = quarantine.put({"x": X, "text": tf.constant(["a", "bc"])}, step=0)
    content = path.read_bytes()
    choose = random.Random(0)
    spoilt = [content[: len(content) * part // 50] for part in range(50)]
    for _ in range(150):
        place = choose.randrange(len(content))
        spoilt.append(content[:place] + bytes([content[place] ^ (1 << choose.randrange(8))]) + content[place + 1 :])
    num_refused = 0
    for version in spoilt:
        path.write_bytes(version)
        batch = problem = None
        try:
            batch, _ = quarantine.load(path)
        except UsageError as error:
            problem = str(error)
            num_refused += 1
        if batch is not None:
            same(X, batch["x"])
        else:
            assert problem.strip()
            assert "\n" not in problem
    assert num_refused > 50


def test_pickles_and_bombs_are_refused(tmp_path: Path):
    """A pickled member is not loaded, and a member that claims more than the file holds is not read."""
    folder = tmp_path
    quarantine = Quarantine(folder)
    leaf = {"kind": "leaf", "was": "array", "array": "array0", "dtype": "object", "shape": [1]}
    manifest = json.dumps({"schema": "nanguard.quarantine/1", "structure": leaf})
    pickled = io.BytesIO()
    np.lib.format.write_array(pickled, np.array([{}], object), allow_pickle=True)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    for number, member in enumerate((pickled.getvalue(), huge.getvalue(), b"\0" * 10**7)):
        path = folder / f"step0000000{number}-{'0' * 12}-1.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("manifest.json", manifest)
            archive.writestr("array0.npy", member)
        with pytest.raises(UsageError, match="must be a whole file of a quarantine"):
            quarantine.load(path)


def test_drafts_of_dead_processes_are_swept(tmp_path: Path):
    """What a killed process was writing goes; what a live one is writing, here or elsewhere, stays."""
    quarantine = Quarantine(tmp_path)
    draft = f".step.npz.{'{}'}-{'{}'}-{'{}'}.tmp"
    from nanguard.guard import quarantine as module

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [
        draft.format(module._HOST, os.getppid(), "0" * 8),
        draft.format(module._HOST, os.getpid(), quarantine._token),
        draft.format("f" * 8, 1, "0" * 8),
    ]
    swept = [draft.format(module._HOST, dead.pid, "0" * 8), draft.format(module._HOST, os.getpid(), "0" * 8)]
    for name in (*kept, *swept):
        (tmp_path / name).write_bytes(b"half")
    old = draft.format("e" * 8, 1, "0" * 8)
    (tmp_path / old).write_bytes(b"half")
    os.utime(tmp_path / old, (0, 0))
    Quarantine(tmp_path)
    assert names(tmp_path) == sorted(kept)


WRITER = """
import os, sys
import numpy as np
from nanguard.guard.quarantine import Quarantine

# Forked from one process that has imported everything: a start takes longer than the writing that is to be killed.
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        quarantine = Quarantine(sys.argv[1])
        start = int(line) * 100_000
        for step in range(start, start + 100_000):
            path = quarantine.put((np.full(5000, step, "float32"), np.arange(7)), step=step, epoch=0, why="w" * 50)
            os.write(1, f"{step} {path.name}\\n".encode())
    print("child", child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_kill_at_any_moment_leaves_whole_files(tmp_path: Path):
    """After SIGKILL at random moments every file is whole, all that was told stored is there, and drafts are swept."""
    choose = random.Random(1)
    told: list[str] = []
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        for number in range(10):
            parent.stdin.write(f"{number}\n")
            parent.stdin.flush()
            child = None
            for line in parent.stdout:
                first, _, second = line.strip().partition(" ")
                if first == "child":
                    child = int(second)
                elif first == "gone":
                    break
                else:
                    told.append(second)
                if child is not None and told and int(told[-1][4:12]) // 100_000 == number:
                    time.sleep(choose.random() * 0.02)
                    os.kill(child, signal.SIGKILL)
                    child = None
        parent.stdin.close()
    quarantine = Quarantine(tmp_path)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
    entries = quarantine.entries()
    assert all(entry.problem is None for entry in entries)
    assert {*told} <= {entry.path.name for entry in entries}
    assert len({entry.manifest["step"] // 100_000 for entry in entries}) == 10
    for entry in entries:
        (x, _), manifest = quarantine.load(entry.path)
        assert (x == manifest["step"]).all()


def test_parquet(tmp_path: Path):
    """A flat table goes to Parquet, with a column for each of its own, and comes back to the last bit."""
    parquet = pytest.importorskip("pyarrow.parquet")
    quarantine = Quarantine(tmp_path, format="parquet")
    batch = (
        {"age": np.array([1.0, np.nan]), "n": tf.constant([1, 2], tf.int16)},
        X,
        tf.constant([[True], [False]]),
        None,
    )
    path = quarantine.put(batch, step=1, why="a NaN")
    assert path.suffix == ".parquet"
    assert parquet.read_table(path).column_names == ["0.age", "0.n", "1[0]", "1[1]", "1[2]", "2[0]"]
    loaded, manifest = quarantine.load(path)
    same(batch, loaded)
    assert manifest["why"] == "a NaN"
    assert [entry.problem for entry in quarantine.entries()] == [None]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError):
        quarantine.load(path)


@pytest.mark.parametrize("name", ["bfloat16", "ragged", "strings", "plain", "0-d", "list"])
def test_what_is_no_table_is_npz(tmp_path: Path, name: str):
    """A batch that is no flat table is stored as NPZ, also where Parquet was asked for."""
    quarantine = Quarantine(tmp_path, format="parquet")
    path = quarantine.put((BATCHES[name], np.zeros((2, 2, 2))), step=1)
    assert path.suffix == ".npz"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "`max_bytes` must be positive. Received: 0"),
        ({"policy": "newest"}, "`policy` must be 'stop' or 'oldest'. Received: 'newest'"),
        ({"format": "csv"}, "`format` must be 'npz' or 'parquet'. Received: 'csv'"),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict[str, Any], message: str):
    """A bad argument is refused in one line."""
    with pytest.raises(UsageError, match=message):
        Quarantine(tmp_path, **options)
