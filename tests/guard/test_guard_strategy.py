"""On several replicas and in several processes all come to the same decision, and a refused step leaves no trace."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nanguard

SCRIPT = Path(__file__).parent / "replicas.py"


def run(*arguments: str, environments: list[dict[str, str]]) -> None:
    """Runs the script in processes side by side, each with its own environment."""
    path = os.pathsep.join([str(Path(nanguard.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, *arguments, str(number)],
            env={**os.environ, "PYTHONPATH": path, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for number, environment in enumerate(environments)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=300)[0].decode() for process in processes]
    finally:
        for process in processes:
            with process:  # one left unread is a warning, and so a failure, in some later test
                process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]


def results(folder: Path, number: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """What the script has saved: by training, all that was left."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / f"{number}.npz") as arrays:
        for key in arrays:
            name, _, what = key.partition(":")
            found.setdefault(name, {})[what] = arrays[key]
    return found


def check(found: dict[str, dict[str, np.ndarray]], name: str) -> None:
    """Holds the run with bad batches against the one without, and that against the plain one."""
    with_bad, without, plain = (found[f"{name}/{kind}"] for kind in ("bad", "good", "plain"))
    assert int(with_bad.pop("skipped")) == 3
    assert int(without.pop("skipped")) == 0
    for key, value in without.items():
        assert np.isfinite(value).all(), key
        assert with_bad[key].tobytes() == value.tobytes(), f"{key}: {with_bad[key]} for {value}"
    for key in set(plain) - {"skipped"}:
        assert plain[key].tobytes() == without[key].tobytes(), f"{key}: {without[key]} for {plain[key]}"


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("mirrored")
    run("mirrored", str(folder), "fit,step,kept", environments=[{}])
    return results(folder)


@pytest.fixture(scope="module")
def mirrored_too(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("mirrored")
    run("mirrored", str(folder), "several,optimizer,scaled,went_back,huge", environments=[{}])
    return results(folder)


@pytest.mark.parametrize("name", ["fit", "step"])
def test_mirrored_strategy(mirrored, name):
    """Two replicas, of which one meets a NaN: neither writes anything, in `fit` and in a loop."""
    check(mirrored, name)


@pytest.mark.long
@pytest.mark.parametrize("name", ["several", "optimizer", "scaled"])
def test_mirrored_strategy_otherwise(mirrored_too, name):
    """So it is with several steps in one execution, with the guard in the optimizer, and with a loss scale."""
    check(mirrored_too, name)


@pytest.mark.long
def test_goes_back(mirrored_too):
    """Weights that something has broken are gone back from, and the healthy batches since are trained on once more."""
    assert mirrored_too["went_back/bad"].pop("actions").tolist() == ["skip", "skip", "rollback", "skip"]
    assert mirrored_too["went_back/good"].pop("actions").tolist() == []
    check(mirrored_too, "went_back")


def test_batch_is_explained_and_kept(mirrored):
    """Rows are those of the batch and the data set, the file holds the batch in one piece, the capture replays."""
    found = mirrored["kept"]
    x, y = found["x"], found["y"]
    for place, (first, last, row) in enumerate([(8, 16, 5), (24, 29, 3)]):
        assert found[f"{place}/rows"].tolist() == found[f"{place}/manifest_rows"].tolist() == [row]
        assert found[f"{place}/rows_again"].tolist() == [row]
        assert found[f"{place}/rows_of_data"].tolist() == [first + row]
        assert found[f"{place}/causes"].tolist() == ["data_nan_inf"] * 2
        assert Path(str(found[f"{place}/file"])).name == SCRIPT.name
        np.testing.assert_array_equal(found[f"{place}/x"], x[first:last])
        np.testing.assert_array_equal(found[f"{place}/y"], y[first:last])


def test_step_is_not_traced_for_each_batch(mirrored):
    """A step is traced once, once more for the smaller last batch, and once for each explanation; on each replica."""
    assert mirrored["kept"]["num_traces"] <= 1 + 2 * (2 + 2)  # and once to build the model


@pytest.mark.long
@pytest.mark.parametrize("name", ["gradients", "slots"])
def test_huge_numbers(mirrored_too, name):
    """Gradients whose square overflows, and slots whose sum does, are let through, as on one replica: all is finite."""
    found = mirrored_too["huge"]
    assert int(found[f"{name}/guarded/skipped"]) == 0
    plain = {key: value for key, value in found.items() if key.startswith(f"{name}/plain")}
    for key, value in plain.items():
        assert np.isfinite(value).all(), key
        assert found[key.replace("plain", "guarded")].tobytes() == value.tobytes(), key


def test_two_workers(tmp_path):
    """Two processes over loopback, in the loop that TensorFlow documents: one's NaN stops the other's update."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    environments = [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})} for index in (0, 1)
    ]
    run("workers", str(tmp_path), "optimizer", environments=environments)
    first, second = results(tmp_path, 0), results(tmp_path, 1)
    check(first, "optimizer")
    check(second, "optimizer")
    for key in (key for key in first["optimizer/bad"] if key.startswith("optimizer")):
        np.testing.assert_array_equal(first["optimizer/bad"][key], second["optimizer/bad"][key], err_msg=key)
