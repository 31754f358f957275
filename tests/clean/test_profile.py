"""A scan tells of each column what would harm a training, and accuses nothing that would not."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from palmerpenguins import load_penguins
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from nanguard import report
from nanguard.clean import cleaning
from nanguard.clean.options import Options
from nanguard.clean.profile import Profile

RANDOM = np.random.default_rng(0)
NUM_ROWS = 4000


def made(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"x": RANDOM.normal(size=NUM_ROWS), **columns})


def troubles(profile: Profile, name: str) -> list[tuple[str | None, str]]:
    (column,) = [column for column in profile.columns if column.name == name]
    return [(trouble.hazard, trouble.text) for trouble in column.troubles]


def told(values: Any, **options: Any) -> list[tuple[str | None, str]]:
    """What is told of one column beside an ordinary one."""
    return troubles(cleaning.scan(made(y=values), **options), "y")


def with_cells(value: Any, places: Any, scale: float = 1.0) -> np.ndarray:
    values = RANDOM.normal(scale=scale, size=NUM_ROWS)
    values[places] = value
    return values


@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer])
def test_clean_data_is_not_accused(load: Any) -> None:
    """Of real sets without a gap, and of ordinary scales, no hazard is told."""
    frame = load(as_frame=True).frame
    assert cleaning.scan(frame, label="target").hazards == ()


@pytest.mark.parametrize("void", [-1, 255, -100])
def test_a_label_that_is_no_class(void: int) -> None:
    """An id for "void" or "unlabelled" among class ids is out of range, and told once."""
    labels = np.resize([0, 1, 2, 3, void], NUM_ROWS)
    told_of = told(labels, label="y")
    assert told_of == [("NG707", f"{void} came 800 times beside class ids from 0 to 3: it is out of range as one")]
    assert "NG707" not in {hazard for hazard, _ in told(labels)}


def test_class_ids_that_begin_at_1() -> None:
    """They are told, as no hazard: they may be a quantity."""
    assert told(np.resize([1.0, 2, 3], NUM_ROWS), label="y") == [
        (None, "whole numbers from 1 to 3: as class ids they would begin at 0")
    ]


@pytest.mark.parametrize(
    "labels",
    [
        np.resize([0, 1, 2], NUM_ROWS),
        np.resize([0, 3, 4, 9, 14], NUM_ROWS),
        np.resize([-1, 1], NUM_ROWS),
        RANDOM.normal(size=NUM_ROWS),
    ],
    ids=["classes", "counts", "signs", "targets"],
)
def test_labels_that_are_as_they_should_be(labels: Any) -> None:
    """Class ids from 0, counts, signs of a hinge loss and real targets are not accused."""
    assert told(labels, label="y") == []


def test_the_json_of_all_kinds_of_columns(checked_report: Any) -> None:
    """Columns without a number, with infinities, of text and of enormous numbers are written as the schema says."""
    found = cleaning.scan(
        made(
            nothing=np.full(NUM_ROWS, np.nan), infinite=with_cells(-np.inf, [3]), huge=with_cells(1e300, [3, 4]),
            word=np.resize(["a", None, "?"], NUM_ROWS), twin=np.arange(NUM_ROWS), other=2.0 * np.arange(NUM_ROWS),
        )
    )  # fmt: skip
    assert checked_report(found)["hazards"] == ["NG701", "NG705", "NG706"]


def test_penguins() -> None:
    """The penguins' gaps are told as pandas counts them, those of the label as missing labels."""
    frame = load_penguins()
    found = cleaning.scan(frame, label="sex")
    assert {column.name: column.num_missing for column in found.columns} == frame.isna().sum().to_dict()
    assert troubles(found, "sex") == [("NG703", "11 labels are null")]
    assert found.hazards == ("NG701", "NG703")
    assert (found.num_whole, found.num_blank) == (len(frame.dropna()), 0)
    assert found.together == ((("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"), 2),)


def test_numbers_are_pandas() -> None:
    """Range, mean, deviation and quantiles are those of pandas."""
    frame = load_diabetes(as_frame=True, scaled=False).frame
    for column in cleaning.scan(frame).columns:
        expected = frame[column.name]
        assert (column.min, column.max) == (expected.min(), expected.max())
        assert column.mean == pytest.approx(expected.mean())
        assert column.std == pytest.approx(expected.std(ddof=0), rel=1e-4)
        assert column.quantiles[0.5] == pytest.approx(expected.quantile(interpolation="lower"), rel=0.01)


@pytest.mark.parametrize(
    ("values", "hazard", "text"),
    [
        (with_cells(np.nan, [3, 7]), "NG701", "2 cells are n"),
        (with_cells(-np.inf, [5]), "NG701", "1 cell is infinite"),
        (with_cells(1e39, [5]), "NG701", "1e+39 is infinite in float32"),
        (with_cells(1e30, [5]), "NG706", "goes to 1e+30"),
        (with_cells(-999.0, [1, 2, 3]), "NG706", "-999 came 3 times and may stand for a missing cell"),
        (np.where(np.arange(NUM_ROWS) % 50 == 0, -1, RANDOM.integers(10, 99, NUM_ROWS)), "NG706", "-1 came 80 times"),
        (np.full(NUM_ROWS, 3.0), "NG702", "constant, 3"),
        (RANDOM.normal(1e8, 1, NUM_ROWS), "NG705", "float32 keeps few of its digits"),
        (RANDOM.normal(0, 5e4, NUM_ROWS), "NG705", "of a large scale, 5"),
        (RANDOM.normal(0, 5e4, NUM_ROWS), None, "infinite in float16"),
        (RANDOM.integers(0, 9, NUM_ROWS).astype(str), None, "numbers kept as text, such as '0'"),
        (np.where(np.arange(NUM_ROWS) % 9 == 0, "?", "yes"), None, "may stand for a missing cell: '?' (445)"),
        (np.full(NUM_ROWS, "same"), None, "constant, 'same'"),
        (with_cells(np.nan, slice(1000, 1500)), None, "missing in whole stretches, between rows"),
    ],
)
def test_each_trouble_is_told(values: np.ndarray, hazard: str | None, text: str) -> None:
    """Each trouble is told by its hazard and in words, and the column beside it is not accused."""
    found = cleaning.scan(made(y=values))
    assert any(code == hazard and text in words for code, words in troubles(found, "y")), troubles(found, "y")
    assert troubles(found, "x") == []


@pytest.mark.parametrize(
    "values",
    [
        RANDOM.normal(size=NUM_ROWS),
        RANDOM.standard_t(3, NUM_ROWS),
        RANDOM.lognormal(0, 1.5, NUM_ROWS),
        RANDOM.integers(-1, 2, NUM_ROWS),
        RANDOM.integers(0, 100, NUM_ROWS),
        RANDOM.integers(-99, 100, NUM_ROWS),
        RANDOM.random(NUM_ROWS) < 0.01,
        RANDOM.choice(["red", "green", "none of these"], NUM_ROWS),
        [datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=int(hour)) for hour in range(NUM_ROWS)],
    ],
)
def test_ordinary_columns_are_not_accused(values: Any) -> None:
    """Heavy tails, rare flags, negative integers and dates are no trouble."""
    assert told(values) == []


def test_gaps_all_over_are_no_stretch() -> None:
    """Cells that are missing at random are not told as missing in stretches."""
    values = with_cells(np.nan, RANDOM.random(NUM_ROWS) < 0.2)
    assert [text for hazard, text in told(values) if hazard is None] == []


def test_a_twin_is_told() -> None:
    """A column that is another one in other units is told, with the other's name."""
    frame = made()
    frame["y"] = 32 - 1.8 * frame["x"]
    assert troubles(cleaning.scan(frame), "y") == [(None, "says the same as 'x': their correlation is above 0.9999")]


def test_sentinels_count_as_missing() -> None:
    """A number that is named as a sentinel is counted as missing, and told no more."""
    found = told(with_cells(-999.0, [1, 2, 3]), options=Options(sentinels=[-999]))
    assert found == [("NG701", "3 cells are NaN")]


def test_it_is_told_as_json_and_text(checked_report: Any) -> None:
    """The JSON is what its schema says, the text ends with the verdict."""
    found = cleaning.scan(made(y=with_cells(np.nan, [1]), t=pd.Timestamp("2020-01-01")))
    document = checked_report(found)
    assert [column["name"] for column in document["columns"]] == ["x", "y", "t"]
    text = report.profile_text(found)
    assert text.splitlines()[-1] == "Found 1 hazard in 1 of 3 columns."
    assert "NG701 nan-or-inf-in-features" in text
    assert report.profile_text(cleaning.scan(made())).splitlines()[-1] == "All finite."
