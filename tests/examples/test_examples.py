"""Every example that breaks is caught and explained, and every cured one trains to a finite end."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT = 180  # seconds; a script takes four on a free core


@dataclass(frozen=True)
class Expected:
    """What the report says of one broken example."""

    hazard: str
    cause: str
    born_in: str
    code: str | None  # a part of the line that it names; None where there is no such line


EXPECTED = {
    "breast_cancer_float16": Expected("NG402", "fp16_range", "forward", "inputs / (total + EPSILON)"),
    "diabetes_poisson": Expected("NG102", "domain_error", "forward", "tf.math.log(rate)"),
    "diabetes_where": Expected("NG303", "where_gradient_trap", "backward", "tf.pow(x, 0.8)"),
    "digits_attention": Expected("NG502", "all_masked_softmax", "forward", "tf.nn.softmax(scores, axis=-1)"),
    "digits_crossentropy": Expected("NG103", "softmax_then_log", "forward", "tf.math.log(y_pred)"),
    "digits_standardise": Expected("NG702", "data_bad_preprocessing", "data", "model.fit(train"),
    "digits_vae": Expected("NG201", "exp_overflow", "forward", "tf.exp("),
    "digits_wgan": Expected("NG306", "gradient_penalty_norm", "backward", "tf.sqrt(tf.reduce_sum(tf.square(slope)"),
    "flights": Expected("NG701", "data_nan_inf", "data", "model.fit(x_train, y_train"),
    "iris_triplet": Expected("NG301", "sqrt_norm_grad_at_zero", "backward", "tf.sqrt(tf.reduce_sum(tf.square(a - b)"),
    "penguins": Expected("NG701", "data_nan_inf", "data", "model.fit(x_train, y_train"),
    "penguins_sex": Expected("NG703", "data_missing_labels", "data", "model.fit(x[:num_train], y[:num_train]"),
    "wine_few_labels": Expected(
        "NG105", "div_by_zero", "forward", "tf.reduce_sum(losses * mask) / tf.reduce_sum(mask)"
    ),
    "wine_scale": Expected("NG705", "data_scale", "divergence", None),
}

# In the everyday run one pair; `make accuracy` explains more scripts, and the rest are long.
EVERYDAY = ("penguins",)
every_example = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERYDAY else pytest.mark.long) for name in EXPECTED]
)

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the interpreter of the tests in the repository's root."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT
    )


def final_loss(output: str) -> float:
    """The loss that a script printed last."""
    return float(re.findall(r"^final loss: (\S+)$", output, flags=re.MULTILINE)[-1])


def test_every_example_is_expected_here() -> None:
    """Each broken example has a cured twin, a row in the table above and one in the README."""
    broken = {path.name.removesuffix("_nan.py") for path in EXAMPLES.glob("*_nan.py")}
    cured = {path.name.removesuffix("_cured.py") for path in EXAMPLES.glob("*_cured.py")}
    rows = re.findall(r"^\| `(\w+)` .* (NG\d+) `(\w+)` \|$", (EXAMPLES / "README.md").read_text("utf-8"), re.MULTILINE)
    assert broken == cured == set(EXPECTED)
    assert {name: (hazard, cause) for name, hazard, cause in rows} == {
        name: (expected.hazard, expected.cause) for name, expected in EXPECTED.items()
    }


@pytest.mark.long  # under nanguard, below, it has to end as well
@pytest.mark.parametrize("name", EXPECTED)
def test_cured_example_is_finite_under_plain_python(name: str) -> None:
    """A cured example exits 0, and the loss that it prints last is finite."""
    done = python(f"examples/{name}_cured.py")
    assert done.returncode == 0, done.stderr
    assert math.isfinite(final_loss(done.stdout))


def test_guarded_example_goes_on_and_resumes(tmp_path: Path) -> None:
    """The guarded example skips its bad batches, ends finite, and trains nothing more when it is run again."""
    script = EXAMPLES / "penguins_guarded.py"
    runs = [
        subprocess.run(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        for _ in range(2)
    ]
    for done in runs:
        assert done.returncode == 0, done.stderr
        assert "skipped: 30 of 135 steps" in done.stdout
    assert final_loss(runs[0].stdout) == final_loss(runs[1].stdout) < 0.1
    assert len(list((tmp_path / "penguins-quarantine").glob("*.npz"))) == 2
    assert "Epoch" in runs[0].stdout
    assert "Epoch" not in runs[1].stdout


def test_cleaned_example_trains_and_serves() -> None:
    """With the cleaning in the model, the penguins' training ends finite, and the served model takes a missing cell."""
    done = python("-m", "nanguard", "run", "examples/penguins_cleaned.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert final_loss(done.stdout) < 0.3
    accuracy = re.search(r"^test accuracy: (\S+)$", done.stdout, flags=re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9
    assert "a bird of unknown bill length and mass: Adelie" in done.stdout
    assert done.stdout.rstrip().endswith("All finite.")


def test_flights_are_served_with_unknown_weather() -> None:
    """With the cleaning in the model, training ends finite, and the exported model takes a flight without weather."""
    done = python("examples/flights_cured.py")
    assert done.returncode == 0, done.stderr
    error = re.search(r"^test error: (\S+) minutes$", done.stdout, flags=re.MULTILINE)
    delay = re.search(r"^half an hour late in unknown weather: (\S+) minutes$", done.stdout, flags=re.MULTILINE)
    assert error is not None
    assert float(error[1]) < 14
    assert delay is not None
    assert 15 < float(delay[1]) < 45


@every_example
def test_cured_example_is_finite_under_nanguard(name: str) -> None:
    """`nanguard run` leaves a cured example alone: exit code 0, a finite loss, and a verdict to say so."""
    done = python("-m", "nanguard", "run", f"examples/{name}_cured.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert math.isfinite(final_loss(done.stdout))
    assert done.stdout.rstrip().endswith("All finite.")


@every_example
def test_broken_example_is_explained(name: str, tmp_path: Path) -> None:
    """`nanguard run` catches a broken example and names its hazard, its cause and the line."""
    expected = EXPECTED[name]
    report_file = tmp_path / "report.json"
    done = python("-m", "nanguard", "run", "--json", str(report_file), f"examples/{name}_nan.py")
    assert done.returncode == 1, done.stdout + done.stderr

    report = json.loads(report_file.read_text("utf-8"))
    assert report["verdict"] in {"nonfinite", "diverged"}
    incident = report["incidents"][0]
    assert (incident["hazard"], incident["cause"], incident["born_in"]) == (
        expected.hazard,
        expected.cause,
        expected.born_in,
    )
    if expected.code is None:
        assert incident["where"] is None
    else:
        assert incident["where"]["file"] == f"examples/{name}_nan.py"
        assert expected.code in incident["where"]["code"]
