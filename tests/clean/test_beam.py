"""A Beam pipeline of several processes learns what one process learns, and every bit of what Dask's workers do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from engine_cases import NUM_ROW_GROUPS, OPTIONS, alone, check, check_bits, write_csv_files, write_table

from nanguard import cli
from nanguard.clean import BeamEngine, Options, cleaning, sources
from nanguard.clean.engines import _merging
from nanguard.clean.sources import _parts
from nanguard.clean.survey import Survey
from nanguard.errors import UsageError

pytest.importorskip("apache_beam", reason="it has an environment of its own: make beam")

# What Beam's and gRPC's own modules warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")

RUNNERS = {
    "one process": {"runner": "DirectRunner", "direct_running_mode": "in_memory"},
    "several processes": {"runner": "DirectRunner", "direct_running_mode": "multi_processing", "direct_num_workers": 2},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Parquet file of many row groups."""
    return write_table(tmp_path_factory.mktemp("beam"))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a row group each."""
    monkeypatch.setattr(_parts, "_ROWS", 1)


def in_fixed_order(path: str) -> Survey:
    """The survey that Dask's workers make, bit for bit: parts merged in pairs, without a cluster."""
    source = sources.open(path)
    pilot = _merging.pilot(source, OPTIONS, with_products=True)
    learnt, first_row = [], 0
    for part in sources.parts(source):
        learnt.append(_merging.learn(part, first_row, pilot))
        first_row += part.source.num_rows or 0
    assert len(learnt) == NUM_ROW_GROUPS
    return _merging.in_pairs(learnt, _merging.merge)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.usefixtures("small_parts")
def test_a_pipeline_learns_what_one_process_learns(runner: str, table: str) -> None:
    """Surveys of parts, merged by a pipeline, are those of the whole; sums are added in the order of all engines."""
    found = BeamEngine(RUNNERS[runner]).survey(sources.open(table), OPTIONS, with_products=True)
    check(found, alone(table))
    check_bits(found, in_fixed_order(table))


def test_without_options_processes_of_this_machine_do_the_work(tmp_path: Path) -> None:
    """CSV files are parts whose rows are counted first, so that each row has its number."""
    path = write_csv_files(tmp_path)
    found = BeamEngine().survey(sources.open(path), OPTIONS, with_products=True)
    check(found, alone(path))
    assert found.numbers.sample.numbers.tolist() == list(range(30))


def test_the_result_leaves_nothing_behind(table: str, tmp_path: Path) -> None:
    """It comes by the pipeline's `temp_location`, and is taken away from there."""
    folder = tmp_path / "temp"
    folder.mkdir()
    options = {**RUNNERS["one process"], "temp_location": str(folder)}
    check(BeamEngine(options).survey(sources.open(table), OPTIONS, with_products=True), alone(table))
    assert os.listdir(folder) == []


def test_cleaning_from_the_command_line(table: str, tmp_path: Path) -> None:
    """A cleaning that a pipeline has learnt writes the file that one process writes."""
    import pyarrow.parquet as pq

    cleaning.clean(table, str(tmp_path / "one.parquet"), options=Options(impute="median", sentinels=[-999]))
    given = ["clean", table, "-o", str(tmp_path / "many.parquet"), "--impute", "median", "--sentinel", "-999"]
    assert cli.main([*given, "--engine", "beam", "--beam", "direct_running_mode=in_memory"]) == 0
    one, many = (pq.read_table(tmp_path / name) for name in ("one.parquet", "many.parquet"))
    assert one.equals(many)


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_a_worker_cannot_read_is_told_in_one_line(runner: str, tmp_path: Path) -> None:
    """The message of the worker, with file and row, is that of the command; its process's stack is no part of it."""
    path = write_csv_files(tmp_path)
    with open(tmp_path / "2.csv", "a") as file:
        file.write("30,a\n" * 900_000 + "many,a\n")  # no reader looks so far ahead
    with pytest.raises(UsageError, match=r"^.*2\.csv.* 'x'.*many") as told:
        BeamEngine(RUNNERS[runner]).survey(sources.open(path), OPTIONS, with_products=False)
    assert "\n" not in str(told.value)
    assert "Traceback" not in str(told.value)


def test_what_no_pipeline_can_read() -> None:
    """Data in memory is refused before a pipeline is made."""
    with pytest.raises(UsageError, match="in this process's memory: leave out the engine"):
        BeamEngine().survey(sources.open(np.ones((3, 2))), OPTIONS, with_products=False)
