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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanguard.clean import DaskEngine, Options, cleaning, sources
from nanguard.clean.sources import _parts
from nanguard.clean.survey import Survey, survey
from nanguard.errors import UsageError

distributed = pytest.importorskip("distributed", reason="it comes with nanguard[dask]")

NUM_ROWS = 60_000
OPTIONS = Options(sentinels=[-999])
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
    """A Parquet file of 120 row groups."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(NUM_ROWS, 6)) @ random.normal(size=(6, 6)) + 1e6
    rows[random.random(rows.shape) < 0.001] = -999
    columns = {f"c{place}": pa.array(rows[:, place], mask=random.random(NUM_ROWS) < 0.1) for place in range(6)}
    columns["word"] = pa.array(random.choice(["a", "b", "c"], NUM_ROWS))
    path = tmp_path_factory.mktemp("dask") / "table.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=500)
    return str(path)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a row group each."""
    monkeypatch.setattr(_parts, "_ROWS", 1)


def check(found: Survey, expected: Survey) -> None:
    """Holds a survey against another: equal, and sums up to the order in which they were added."""
    ours, theirs = found.numbers, expected.numbers
    for name in ("num_rows", "num_nulls", "num_nans", "min", "max", "pairs"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for one, other in zip(ours.histograms, theirs.histograms, strict=True):
        np.testing.assert_array_equal(one.bins, other.bins)
        np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(ours.sample.rows, theirs.sample.rows)
    np.testing.assert_allclose(ours.pair_products, theirs.pair_products, rtol=1e-12, atol=1e-6)
    assert found.categories["word"].counts == expected.categories["word"].counts


def alone(path: str) -> Survey:
    source = sources.open(path)
    return survey(source.schema, source.blocks(), OPTIONS)


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
    check(found[0], whole)
    for name in ("pair_sums", "pair_products"):
        assert getattr(found[0].numbers, name).tobytes() == getattr(whole.numbers, name).tobytes()


def test_files_without_row_groups(cluster: Any, tmp_path: Path) -> None:
    """CSV files are parts whose rows are counted first, so that each row has its number."""
    for number in range(3):
        rows = "\n".join(f"{number * 10 + row},{'ab'[row % 2]}" for row in range(10))
        (tmp_path / f"{number}.csv").write_text(f"x,word\n{rows}\n")
    path = str(tmp_path / "*.csv")
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
