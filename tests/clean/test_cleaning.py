"""A table goes through learning, cleaning and files, and no row is lost on the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from palmerpenguins import load_penguins

from nanguard.clean import cleaning, options, quarantine, sources
from nanguard.clean.options import Options
from nanguard.errors import UsageError

NUMBERS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]


@pytest.fixture
def penguins(tmp_path: Path) -> str:
    load_penguins().to_csv(tmp_path / "penguins.csv", index=False)
    return str(tmp_path / "penguins.csv")


def run(data: Any, folder: Path, **given: Any) -> tuple[cleaning.Cleaning, pd.DataFrame, pd.DataFrame]:
    """Cleans data; gives what was done, the rows kept, and those set aside."""
    given = {"set_aside": str(folder / "bad.parquet"), "force": True, **given}
    done = cleaning.clean(data, str(folder / "clean.parquet"), **given)
    aside = pq.read_table(given["set_aside"]).to_pandas() if given["set_aside"] else pd.DataFrame()
    return done, pq.read_table(folder / "clean.parquet").to_pandas(), aside


@pytest.mark.parametrize("impute", [*options.IN_MODEL, *options.OUT_OF_MODEL])
def test_every_way_fills_every_gap(impute: str, penguins: str, tmp_path: Path) -> None:
    """Each way leaves no gap in the numbers, changes no cell that was there, and keeps the rows in their order."""
    raw = pd.read_csv(penguins)
    group = "species" if impute in options.OF_GROUPS else None
    done, kept, aside = run(penguins, tmp_path, options=Options(impute=impute, group=group, outliers=None))
    assert (done.num_rows, len(kept), len(aside)) == (344, 344, 0)
    assert kept[NUMBERS].notna().all(axis=None)
    pd.testing.assert_frame_equal(kept.where(raw.notna()), raw, check_dtype=False)
    assert done.num_filled == {**dict.fromkeys(NUMBERS, 2), "year": 0}


def test_fills_that_look_at_other_rows(penguins: str, tmp_path: Path) -> None:
    """A group's mean and the row before are those of pandas."""
    raw = pd.read_csv(penguins)
    means = raw[NUMBERS].fillna(raw.groupby("species")[NUMBERS].transform("mean"))
    found = run(penguins, tmp_path, options=Options(impute="group_mean", group="species", outliers=None))[1]
    np.testing.assert_allclose(found[NUMBERS], means)
    found = run(penguins, tmp_path, options=Options(impute="bfill", outliers=None))[1]
    np.testing.assert_allclose(found[NUMBERS], raw[NUMBERS].bfill().ffill())
    shuffled = raw.sample(frac=1, random_state=0, ignore_index=True)
    given = Options(impute="ffill", group="species", outliers=None)
    found = run(shuffled, tmp_path, options=given)[1]
    expected = shuffled.groupby("species")[NUMBERS].ffill()
    np.testing.assert_allclose(found[NUMBERS][expected.notna()], expected)


def test_indicators_say_what_was_missing(penguins: str, tmp_path: Path) -> None:
    """A column of 0 and 1 for each one that had gaps; a row that comes back from the quarantine has none."""
    raw = pd.read_csv(penguins)
    _, kept, aside = run(penguins, tmp_path, options=Options(indicators=True, outliers=None), label="sex")
    indicated = [f"{name}_missing" for name in NUMBERS]
    assert list(kept) == [*raw, *indicated]
    labelled = raw[raw["sex"].notna()]
    np.testing.assert_array_equal(kept[indicated], labelled[NUMBERS].isna())
    assert set(kept[indicated].dtypes) == {np.dtype("int8")}
    assert not any(name in aside for name in indicated)
    names = [str(tmp_path / name) for name in ("clean.parquet", "bad.parquet", "all.parquet")]
    assert quarantine.restore(*names) == len(raw)
    whole = pq.read_table(names[2]).to_pandas()
    assert whole[indicated].isna().all(axis=1).tolist() == raw["sex"].isna().tolist()
    with pytest.raises(UsageError, match="'x_missing' would have the name of a column"):
        run({"x": [1.0, np.nan], "x_missing": [0.0, 1.0]}, tmp_path, options=Options(indicators=True))


def test_groups_of_a_matrix_and_of_no_column(penguins: str, tmp_path: Path) -> None:
    """A column of a matrix may number the groups; one that there is not is told before anything is read."""
    rows = np.array([[0.0, 1.0], [1.0, 5.0], [0.0, np.nan], [1.0, np.nan], [np.nan, np.nan]])
    given = Options(impute="ffill", group="0", outliers=None)
    kept = run(rows, tmp_path, options=given, columns=["1"], set_aside=None)[1]
    assert kept["1"].tolist() == [1.0, 5.0, 1.0, 5.0, 1.0]
    with pytest.raises(UsageError, match=r"no column 'town' to group by\. The table has: species, island, "):
        run(penguins, tmp_path, options=Options(impute="ffill", group="town"))


def test_a_group_that_nothing_asks_for() -> None:
    """A column of groups is refused where no way looks at groups, rather than ignored."""
    with pytest.raises(ValueError, match=r"`group` is for `impute` as 'group_mean', .* Received: group='city'"):
        Options(impute="mean", group="city")


def test_rows_that_cannot_be_repaired_are_set_aside(penguins: str, tmp_path: Path) -> None:
    """Rows without a label leave with their cells, number, column and reason; kept and set aside are all rows."""
    raw = pd.read_csv(penguins)
    done, kept, aside = run(penguins, tmp_path, label="sex")
    assert done.reasons == {"no label": 11}
    assert aside["nanguard_row"].tolist() == np.flatnonzero(raw["sex"].isna()).tolist()
    assert [list(names) for names in aside["nanguard_columns"]] == [["sex"]] * 11
    assert kept["sex"].notna().all()
    assert len(kept) + len(aside) == len(raw)


@pytest.mark.parametrize(
    ("bounds", "expected"), [("iqr", {5, 70}), ("mad", {5, 70}), ("isolation_forest", {70}), ("mahalanobis", {9, 70})]
)
def test_outliers_leave(bounds: str, expected: set[int], tmp_path: Path) -> None:
    """Cells beyond their column's bounds take their rows out, and so do rows that are odd as a whole."""
    random = np.random.default_rng(0)
    x = random.normal(size=2000)
    frame = pd.DataFrame({"x": x, "y": x + 0.05 * random.normal(size=2000), "z": random.normal(size=2000)})
    frame.loc[5, "z"] = 12.0
    frame.loc[9, ["x", "y"]] = 1.5, -1.5
    frame.loc[70] = 30.0, -30.0, 30.0
    limit = {"mad": 8.0, "isolation_forest": 0.0006, "mahalanobis": 1 - 1e-9}.get(bounds)
    given = Options(bounds=bounds, outliers="quarantine", threshold=limit)
    done, kept, aside = run(frame, tmp_path, options=given)
    assert expected <= set(aside["nanguard_row"])
    assert len(aside) <= len(expected) + 1
    assert done.num_set_aside == len(aside) == 2000 - len(kept)


def test_spikes_of_a_sequence_are_found_across_blocks(tmp_path: Path) -> None:
    """A number that jumps out of its neighbourhood is filled from its neighbours, at the edge of a block too."""
    curve = np.sin(np.arange(1000) / 50)
    spiked = curve.copy()
    places = [0, 99, 100, 101, 555, 999]
    spiked[[99, 555]] += 3
    batches = [pa.record_batch({"y": spiked[start : start + 100]}) for start in range(0, 1000, 100)]
    given = Options(impute="interpolate", bounds="hampel", outliers="impute", threshold=8.0)
    done, kept, _ = run(pa.Table.from_batches(batches), tmp_path, options=given)
    assert done.num_bounded == {"y": 2}
    np.testing.assert_allclose(kept["y"].to_numpy()[places], curve[places], atol=1e-3)


def test_spikes_of_sequences_among_one_another(tmp_path: Path) -> None:
    """Each sequence is judged and filled on its own, wherever its rows lie; as one table they would all jump."""
    curve = np.sin(np.arange(500) / 50)
    values = np.stack([curve, curve + 100], 1)
    spiked = values.copy()
    spiked[[99, 350], [0, 1]] += 3
    city = np.resize(["a", "b"], 1000)
    table = pa.table({"city": city, "y": spiked.ravel()})
    batches = [table.slice(start, 130).to_batches()[0] for start in range(0, 1000, 130)]
    given = Options(impute="interpolate", bounds="hampel", outliers="impute", threshold=8.0, group="city")
    done, kept, _ = run(pa.Table.from_batches(batches), tmp_path, options=given)
    assert done.num_bounded == {"y": 2}
    np.testing.assert_allclose(kept["y"], values.ravel(), atol=1e-3)


def test_what_is_not_repaired_keeps_its_bits(tmp_path: Path) -> None:
    """Integers of 64 bits, dates, text, lists and floats without trouble go through as they came, types too."""
    table = pa.table(
        {
            "id": pa.array([2**62 + n for n in range(4)], pa.int64()),
            "when": pa.array([1, 2, None, 4], pa.timestamp("ns")),
            "what": pa.array(["a", None, "b", "b"]),
            "list": pa.array([[1], [], None, [2, 3]], pa.list_(pa.int64())),
            "half": pa.array(np.array([0.1, 0.2, 0.3, 0.4], np.float16)),
            "gap": pa.array([1.5, None, float("nan"), 2.5], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    given = {"options": Options(impute="mean", outliers=None), "set_aside": None}
    run(str(tmp_path / "in.parquet"), tmp_path, **given)
    found = pq.read_table(tmp_path / "clean.parquet")
    for name in ("id", "when", "what", "list", "half"):
        assert found[name].equals(table[name]), name
        assert found.schema.field(name).type == table.schema.field(name).type
    assert found["gap"].to_pylist() == [1.5, 2.0, 2.0, 2.5]
    run(str(tmp_path / "in.parquet"), tmp_path, categories="mode", **given)
    assert pq.read_table(tmp_path / "clean.parquet")["what"].to_pylist() == ["a", "b", "b", "b"]


def test_the_index_of_a_frame_is_no_column(tmp_path: Path) -> None:
    """A frame whose rows were drawn, as `train_test_split` does, is cleaned in the order that it has."""
    frame = load_penguins().sample(100, random_state=0)
    _, kept, _ = run(frame, tmp_path, options=Options(impute="median", outliers=None))
    expected = frame["body_mass_g"].fillna(frame["body_mass_g"].median()).tolist()
    assert kept["body_mass_g"].tolist() == pytest.approx(expected, rel=0.01)
    assert set(kept.columns) == set(frame.columns)


def test_only_the_columns_that_are_named_are_cleaned(penguins: str, tmp_path: Path) -> None:
    """Other columns keep their gaps."""
    _, kept, _ = run(penguins, tmp_path, columns=["body_mass_g"], options=Options(impute="median"))
    assert kept.isna().sum()[NUMBERS].tolist() == [2, 2, 2, 0]
    with pytest.raises(UsageError, match="'sex' is not a column of numbers"):
        run(penguins, tmp_path, columns=["sex"])
    with pytest.raises(UsageError, match="'size' is no column of"):
        run(penguins, tmp_path, columns=["size"])


def test_nothing_is_written_where_something_fails(
    penguins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that exists, a source that changes while it is read, and an error in the middle leave no file behind."""
    output = tmp_path / "clean.parquet"
    output.write_text("mine")
    with pytest.raises(UsageError, match=r"clean\.parquet exists"):
        cleaning.clean(penguins, str(output))
    assert output.read_text() == "mine"
    output.unlink()
    before = set(os.listdir(tmp_path))
    learn = cleaning.survey

    def learn_and_grow(*arguments: Any, **given: Any) -> Any:
        found = learn(*arguments, **given)
        with open(penguins, "a", encoding="utf-8") as file:
            file.write("Adelie,Biscoe,40,18,190,4000,male,2009\n")
        return found

    monkeypatch.setattr(cleaning, "survey", learn_and_grow)
    with pytest.raises(UsageError, match=r"had 344 rows when it was learnt from and 345 when it was cleaned"):
        cleaning.clean(penguins, str(output), set_aside=str(tmp_path / "bad.parquet"))
    assert set(os.listdir(tmp_path)) == before


def test_what_can_be_read_once_is_refused(tmp_path: Path) -> None:
    """A generator of batches cannot be learnt from and cleaned, and the message says what to do."""
    with pytest.raises(UsageError, match="can be read only once, and cleaning reads it twice"):
        cleaning.clean((np.ones((3, 2)) for _ in range(2)), str(tmp_path / "out.parquet"))


def test_quarantine_needs_a_file(penguins: str, tmp_path: Path) -> None:
    """Rows that are to be set aside need a place to go to."""
    with pytest.raises(UsageError, match="--quarantine FILE"):
        cleaning.clean(penguins, str(tmp_path / "out.parquet"), options=Options(outliers="quarantine"))


@pytest.mark.parametrize("bounds", ["iqr", "mahalanobis"])
def test_a_scan_of_what_was_cleaned_is_finite(bounds: str, penguins: str, tmp_path: Path, checked_report: Any) -> None:
    """What was cleaned has no gap left, and its figures are JSON as the schema says."""
    given = Options(bounds=bounds, outliers="clip" if bounds == "iqr" else "quarantine")
    aside = str(tmp_path / "bad.parquet")
    done = cleaning.clean(penguins, str(tmp_path / "clean.csv"), label="sex", set_aside=aside, options=given)
    found = cleaning.scan(str(tmp_path / "clean.csv"), label="sex")
    assert not [column.name for column in found.columns if column.num_missing]
    assert checked_report(done)["num_kept"] == found.num_rows
    assert done.reasons["no label"] == 11


def test_memory_makes_blocks_small(penguins: str) -> None:
    """A budget below what the process takes itself is refused; another one cuts the blocks."""
    with pytest.raises(UsageError, match="100 MB are too few"):
        cleaning.scan(penguins, memory=100 << 20)
    seen = []

    def watch(source: sources.Source, what: str) -> sources.Source:
        seen.append((what, source.batch_rows))
        return source

    cleaning.scan(np.ones((10, 1000)), memory=260 << 20, watch=watch)
    assert seen == [("scan", (10 << 20) // (12 * 8 * 1000))]
