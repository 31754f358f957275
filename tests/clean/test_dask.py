"""A cluster of several processes learns what one process learns, also if one of them is killed on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from engine_cases import OPTIONS, alone, check, check_bits, write_csv_files, write_table

from nanguard.clean import DaskEngine, Options, cleaning, sources
from nanguard.clean.sources import _parts
from nanguard.clean.survey import Survey
from nanguard.errors import UsageError

distributed = pytest.importorskip("distributed", reason="it comes with nanguard[dask]")

# What Dask and tornado leave open when a worker dies is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three worker processes on this machine."""
    made = distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None)
    with made:
        yield made


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Parquet file of many row groups."""
    return write_table(tmp_path_factory.mktemp("dask"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a row group each."""
    monkeypatch.setattr(_parts, "_ROWS", 1)


def test_a_cluster_learns_what_one_process_learns(cluster: Any, table: str) -> None:
    """Surveys of parts, made by several processes and merged, are the survey of the whole."""
    engine = DaskEngine(cluster.scheduler_address)
    check(engine.survey(sources.open(table), OPTIONS, with_products=True), alone(table))


def test_a_worker_that_is_killed_changes_nothing(cluster: Any, table: str) -> None:
    """A worker is killed while parts are at work: they are done elsewhere, and every bit of the result is the same."""
    engine = DaskEngine(cluster.scheduler_address)
    whole = engine.survey(sources.open(table), OPTIONS, with_products=True)
    found: list[Survey] = []
    thread = threading.Thread(
        target=lambda: found.append(engine.survey(sources.open(table), OPTIONS, with_products=True))
    )
    thread.start()
    victim = next(iter(cluster.workers.values())).pid
    tasks = cluster.scheduler.tasks
    deadline = time.monotonic() + 60
    while sum(task.state == "memory" for task in list(tasks.values())) < 10 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert any(task.state in ("processing", "waiting") for task in list(tasks.values()))
    os.kill(victim, signal.SIGKILL)
    thread.join(120)
    check_bits(found[0], whole)


def test_files_without_row_groups(cluster: Any, tmp_path: Path) -> None:
    """CSV files are parts whose rows are counted first, so that each row has its number."""
    path = write_csv_files(tmp_path)
    found = DaskEngine(cluster.scheduler_address).survey(sources.open(path), OPTIONS, with_products=True)
    check(found, alone(path))
    assert found.numbers.sample.numbers.tolist() == list(range(30))


def test_cleaning_with_a_cluster(cluster: Any, table: str, tmp_path: Path) -> None:
    """A cleaning that was learnt on a cluster writes the file that one process writes."""
    options = Options(impute="median", sentinels=[-999])
    engines = {"one.parquet": None, "many.parquet": DaskEngine(cluster.scheduler_address)}
    for name, engine in engines.items():
        cleaning.clean(table, str(tmp_path / name), options=options, engine=engine)
    one, many = (pq.read_table(tmp_path / name) for name in engines)
    assert one.equals(many)


def test_what_no_cluster_can_read(cluster: Any) -> None:
    """Data in memory, and a scheduler that is not there, are told in one line."""
    with pytest.raises(UsageError, match="in this process's memory: leave out the engine"):
        DaskEngine(cluster.scheduler_address).survey(sources.open(np.ones((3, 2))), OPTIONS, with_products=False)
