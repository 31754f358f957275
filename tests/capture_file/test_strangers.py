"""A file from a stranger is read, or refused by one line; it runs nothing."""

from __future__ import annotations

import contextlib
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from nanguard import capture_file, replay
from nanguard.errors import NanguardError, UsageError

from .conftest import Forging, Saved

Steps = Callable[[str], Saved]


def refusal(path: Path) -> str:
    """What is said of a file that is not read."""
    with pytest.raises(UsageError) as caught:
        capture_file.load(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("way", ["graph", "eager"])
def test_truncated(way: str, steps: Steps, tmp_path: Path) -> None:
    """A file that was cut off anywhere is refused."""
    content = steps(way).path.read_bytes()
    path = tmp_path / "step.capture"
    for part in range(50):
        path.write_bytes(content[: len(content) * part // 50])
        assert "is no capture, or not all of it is there" in refusal(path)


@pytest.mark.parametrize("way", [pytest.param("graph", marks=pytest.mark.long), "eager"])
def test_flipped_bytes(way: str, steps: Steps, tmp_path: Path) -> None:
    """A file with a flipped byte is refused, or the byte was one that does not matter."""
    content = steps(way).path.read_bytes()
    path = tmp_path / "step.capture"
    places = random.Random(0)
    refused = 0
    for _ in range(100):
        flipped = bytearray(content)
        flipped[places.randrange(len(content))] ^= 1 << places.randrange(8)
        path.write_bytes(flipped)
        try:
            capture_file.load(str(path))
        except UsageError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["manifest.json", "graphs.json"])
def test_forged_json(name: str, forged: Forging) -> None:
    """Whatever stands in the place of a value, it is one error or a replay that ends: never another exception."""
    places = random.Random(1)
    junk = [None, -1, 1 << 70, 10**6, "x", [], {}, [[]], float("nan"), True, "__inference_x", [0, 0, 0]]

    def spoil(document: Any) -> None:
        current = document
        for _ in range(12):
            keys = list(current) if isinstance(current, dict) else list(range(len(current)))
            key = places.choice(keys)
            if isinstance(current[key], (dict, list)) and current[key] and places.random() < 0.9:
                current = current[key]
                continue
            current[key] = places.choice(junk)
            return

    refused = 0
    for _ in range(25):
        path = forged(name, spoil)
        try:
            capture, _ = capture_file.load(str(path))
        except UsageError:
            refused += 1
            continue
        # What else a replay raises, the command tells as one that failed.
        with contextlib.suppress(NanguardError, ValueError, KeyError, TypeError, IndexError, tf.errors.OpError):
            replay.explain(capture)
    assert refused > 2


def with_node(content: bytes, op: str) -> bytes:
    """A graph whose first op that computes is of another type."""
    definition = tf.compat.v1.GraphDef.FromString(content)
    node = next(node for node in definition.node if node.op not in ("Placeholder", "Const"))
    node.op = op
    return bytes(definition.SerializeToString())


@pytest.mark.parametrize(
    "op",
    ["ReadFile", "WriteFile", "EagerPyFunc", "PyFunc", "PyFuncStateless", "SaveV2", "RestoreV2", "MatchingFiles",
     "TextLineDataset", "TFRecordDatasetV2", "GeneratorDataset", "_Send", "_HostRecv", "RpcCheck", "DebugIdentity",
     "CollectiveReduceV2", "Abort"],
)  # fmt: skip
def test_an_op_that_reaches_out_is_refused(op: str, forged: Forging) -> None:
    """A graph with such an op, anywhere in it, is refused by a message that names the op."""
    assert f"the op {op}" in refusal(forged("graphs/0.pb", lambda content: with_node(content, op)))


@pytest.mark.parametrize("op", ["ReadFile", "PrintV2", "WriteSummary", "While"])
def test_an_event_that_reaches_out_is_refused(op: str, forged: Forging) -> None:
    """A recording with an op that would be run, and must not be, is refused."""

    def change(document: Any) -> None:
        body = document["capture"]["body"]
        place = body["names"].index("Log")
        body["names"][place] = op

    assert f"the op {op}" in refusal(forged("manifest.json", change, "eager"))


def test_an_unknown_op(forged: Forging) -> None:
    """An op that this TensorFlow does not have is told from one that is refused."""
    message = refusal(forged("graphs/0.pb", lambda content: with_node(content, "MyCustomOp")))
    assert "which this TensorFlow does not know" in message


def test_a_left_out_op_is_where_a_replay_ends(forged: Forging) -> None:
    """An op that was left out of the file loads, and TensorFlow has none of its name to run."""
    path = forged("graphs/0.pb", lambda content: with_node(content, "Unavailable/EagerPyFunc"))
    capture, _ = capture_file.load(str(path))
    incident = replay.explain(capture)
    assert incident is None or incident.hazard is None or not incident.reproduced or incident.notes


def test_a_newer_tensorflow(forged: Forging) -> None:
    """A capture of a TensorFlow to come is refused by the versions."""

    def change(document: Any) -> None:
        document["versions"]["tensorflow"] = "9.1.0"

    assert "is from TensorFlow 9.1.0" in refusal(forged("manifest.json", change))


def test_another_schema(forged: Forging) -> None:
    """A format to come is refused by its name."""

    def change(document: Any) -> None:
        document["schema"] = "nanguard.capture/2"

    assert "is of the format nanguard.capture/2" in refusal(forged("manifest.json", change))


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 20], [1 << 30], [0, 1 << 62], [-1], [1] * 300])
def test_huge_shape(shape: list[int], forged: Forging) -> None:
    """A shape that the bytes do not fill is refused before anything of that size is made."""

    def change(document: Any) -> None:
        document["tensors"][0]["shape"] = shape

    assert "is damaged" in refusal(forged("manifest.json", change))


def test_pickled_tensor(forged: Forging) -> None:
    """A tensor that is a pickle is not opened."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    pickled = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"cos\nsystem\n(S'false'\ntR."

    assert "tensor 0 is not of its dtype" in refusal(forged("tensors/0.npy", lambda content: pickled))


def test_circle_of_functions(forged: Forging) -> None:
    """Functions that call one another in a circle are refused."""

    def change(document: Any) -> None:
        document["graphs"][0]["outer"] = 0

    assert "in a circle" in refusal(forged("graphs.json", change))


def test_zip_bomb(tmp_path: Path) -> None:
    """A small file that unpacks to a large one is refused before it is unpacked."""
    path = tmp_path / "step.capture"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(300 << 20))
    assert path.stat().st_size < 1 << 20
    assert "is larger than a capture's graphs can be" in refusal(path)


def test_source_of_a_forged_name_is_not_read_here(forged: Forging) -> None:
    """A frame that names a file of this machine shows what the capture holds of it, not what is in that file."""

    def change(document: Any) -> None:
        document["files"] = [__file__ for _ in document["files"]]

    path = forged("manifest.json", change)
    capture, _ = capture_file.load(str(path))
    incident = replay.explain(capture)
    assert incident is not None
    assert incident.where is not None
    assert incident.where.code == "return tf.math.log(inputs)"


def test_no_terminal_codes(forged: Forging) -> None:
    """Names that would command a terminal lose what commands it."""

    def change(document: Any) -> None:
        document["about"]["script"] = "\x1b[2Jtrain.py"

    assert capture_file.load(str(forged("manifest.json", change)))[1].script == "\ufffd[2Jtrain.py"


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_not_a_capture(content: bytes, tmp_path: Path) -> None:
    """A file of another kind is no capture."""
    path = tmp_path / "step.capture"
    path.write_bytes(content)
    assert "is no capture" in refusal(path)


def test_no_file(tmp_path: Path) -> None:
    """A path without a file, and a folder, cannot be read."""
    assert "cannot be read" in refusal(tmp_path / "none")
    assert "cannot be read" in refusal(tmp_path)
