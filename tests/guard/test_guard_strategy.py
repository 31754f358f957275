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
    run("mirrored", str(folder), environments=[{}])
    return results(folder)


@pytest.mark.parametrize("name", ["fit", "optimizer", "step", "scaled"])
def test_mirrored_strategy(mirrored, name):
    """Two replicas, of which one meets a NaN: neither writes anything, in `fit` and in loops, with a loss scale too."""
    check(mirrored, name)


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
    run("workers", str(tmp_path), environments=environments)
    first, second = results(tmp_path, 0), results(tmp_path, 1)
    check(first, "optimizer")
    check(second, "optimizer")
    for key in (key for key in first["optimizer/bad"] if key.startswith("optimizer")):
        np.testing.assert_array_equal(first["optimizer/bad"][key], second["optimizer/bad"][key], err_msg=key)
