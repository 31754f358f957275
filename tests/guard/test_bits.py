"""On finite training the watch changes no bit, and counts each step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nanguard

# By its path: the tests are no package, and the same file is run as a script.
sys.path.insert(0, str(Path(__file__).parent))
import trainings

SCRIPT = Path(trainings.__file__)
pytestmark = pytest.mark.long  # all ways to train, twice each
every_training = pytest.mark.parametrize("name", trainings.TRAININGS)

Results = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """What each training came to, plain and watched: two processes that differ in nothing else."""
    folder = tmp_path_factory.mktemp("bits")
    path = os.pathsep.join([str(Path(nanguard.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    files = {mode: folder / f"{mode}.npz" for mode in ("plain", "watched")}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, mode, file], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for mode, file in files.items()
    ]
    try:
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output.decode()[-3000:]
    found: dict[str, Results] = {}
    for mode, file in files.items():
        by_training = found[mode] = {}
        with np.load(file) as arrays:
            assert str(arrays["problem"]) == ""
            assert arrays["notes"].tolist() == []  # no part went unwatched
            for key in set(arrays) - {"problem", "notes"}:
                name, _, what = key.partition(":")
                by_training.setdefault(name, {})[what] = arrays[key]
    return found


def made(found: dict[str, np.ndarray]) -> list[int]:
    """How many updates each optimizer says it made; the one inside speaks for a loss scale around it."""
    own = [key for key in found if key.endswith("/iteration")]
    return [int(found[key]) for key in own if not key.endswith("loss_scale_optimizer/iteration")]


@every_training
def test_no_bit_is_changed(results: dict[str, Results], name: str):
    """Weights, state, optimizer slots, seeds, metrics and losses end with the same bits and the same names."""
    plain, watched = (dict(results[mode][name]) for mode in ("plain", "watched"))
    del plain["steps"], watched["steps"]
    assert sorted(plain) == sorted(watched)
    assert len(plain) >= 4
    if name == "gan_rewritten_by_tensorflow":
        for key, value in plain.items():
            np.testing.assert_allclose(watched[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
        return
    different = [key for key, value in plain.items() if value.tobytes() != watched[key].tobytes()]
    assert not different


@every_training
def test_every_step_is_counted(results: dict[str, Results], name: str):
    """`steps` is the number of updates that were made, in all ways to train; without a watch it stays 0."""
    found = results["watched"][name]
    iterations = made(found)
    assert int(found["steps"]) == (sum(iterations) if iterations else trainings.STEPS)
    assert int(results["plain"][name]["steps"]) == 0


def test_trainings_take_the_ways_that_they_are_named_for(results: dict[str, Results]):
    """Updates were skipped for an overflow of scaled gradients alone, and in no other training."""
    for name, found in results["plain"].items():
        iterations = made(found)
        if name == "fit_in_half_precision":
            assert 0 < iterations[0] < trainings.STEPS
        else:
            assert set(iterations) <= {trainings.STEPS}, name
