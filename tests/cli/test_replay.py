"""`nanguard replay` tells what `nanguard run` told, elsewhere and without the script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """\
import keras
import numpy as np
import tensorflow as tf


class Log(keras.layers.Layer):
    def call(self, x):
        return tf.math.log(x)


x = np.random.default_rng(0).uniform(1, 2, (32, 4)).astype("float32")
x[21, 2] = 0.0
model = keras.Sequential([Log(), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile={compiled})
model.fit(x, x.sum(axis=1), batch_size=8, shuffle=False, verbose=0)
"""


def command(folder: Path, environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "nanguard", *args],
        cwd=folder,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_replay_tells_what_run_told(compiled: bool, tmp_path: Path, environment: dict[str, str]) -> None:
    """Report, JSON and exit code of a replay in another folder, with the script gone, are those of the run."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    script = here / "train.py"
    script.write_text(SCRIPT.format(compiled=compiled), encoding="utf-8")
    ran = command(here, environment, "run", "--json", "run.json", "--capture", "step.capture", "train.py")
    assert "to run it again: nanguard replay step.capture" in ran.stderr
    script.unlink()
    (here / "step.capture").rename(there / "step.capture")
    replayed = command(there, environment, "replay", "--json", "replay.json", "step.capture")
    found: dict[str, Any] = json.loads((there / "replay.json").read_text(encoding="utf-8"))
    assert found == json.loads((here / "run.json").read_text(encoding="utf-8"))
    assert found["incidents"][0]["where"]["code"] == "return tf.math.log(x)"
    assert found["incidents"][0]["dataset_rows"] == [21]
    assert replayed.stdout == ran.stdout.lstrip("\n")
    assert replayed.returncode == ran.returncode == 1
    again = command(there, environment, "replay", "--json", "replay.json", "step.capture")
    assert again.returncode == 2
    assert again.stderr == "nanguard: error: replay.json exists. To overwrite it, add --force.\n"
