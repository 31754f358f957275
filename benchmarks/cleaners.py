"""One and the same cleaning of a Parquet file, as nanguard and as others do it; run by benchmarks.cleaning.

The task, for a table of floats with missing cells: of each column the count of missing cells, minimum, maximum, mean,
standard deviation and quartiles; then gaps filled with the median, numbers beyond the quartiles by three interquartile
ranges moved there, and the rows whose first column is missing, the label, in a file of their own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

FACTOR = 3.0  # interquartile ranges


def nanguard(path: str, clean: str, bad: str) -> None:
    """nanguard: a survey in one pass, and a second pass that cleans."""
    from nanguard.clean import Options, cleaning

    done = cleaning.clean(path, clean, set_aside=bad, label="c0", options=Options(impute="median"))
    assert done.num_kept + done.num_set_aside == done.num_rows


def nanguard_scan(path: str, clean: str, bad: str) -> None:
    """nanguard's `scan` alone, with the products of all pairs of columns."""
    from nanguard.clean import scan

    scan(path, label="c0")


def polars(path: str, clean: str, bad: str) -> None:
    """Polars' streaming engine: one query for the statistics, one for each file."""
    import polars as pl

    frame = pl.scan_parquet(path)
    names = frame.collect_schema().names()
    aggregates = {
        "nulls": pl.Expr.null_count, "min": pl.Expr.min, "max": pl.Expr.max, "mean": pl.Expr.mean, "std": pl.Expr.std,
        "q1": lambda c: c.quantile(0.25), "q2": lambda c: c.quantile(0.5), "q3": lambda c: c.quantile(0.75),
    }  # fmt: skip
    asked = [make(pl.col(name)).alias(f"{name}:{what}") for name in names for what, make in aggregates.items()]
    found = frame.select(asked).collect(engine="streaming").row(0, named=True)
    cleaned = []
    for name in names[1:]:
        low, middle, high = (found[f"{name}:{quartile}"] for quartile in ("q1", "q2", "q3"))
        width = FACTOR * (high - low)
        cleaned.append(pl.col(name).fill_null(middle).clip(low - width, high + width))
    frame.filter(pl.col(names[0]).is_not_null()).with_columns(cleaned).sink_parquet(clean)
    frame.with_row_index().filter(pl.col(names[0]).is_null()).sink_parquet(bad)


def duckdb(path: str, clean: str, bad: str) -> None:
    """DuckDB, with its approximate quantiles."""
    import duckdb as db

    connection = db.connect()
    names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall()]
    parts = [
        f"count({n}), min({n}), max({n}), avg({n}), stddev_pop({n}), approx_quantile({n}, [0.25, 0.5, 0.75])"
        for n in names
    ]
    found = connection.execute(f"SELECT {', '.join(parts)} FROM '{path}'").fetchone()
    assert found is not None
    cleaned = []
    for place, name in enumerate(names):
        low, middle, high = found[6 * place + 5]
        width = FACTOR * (high - low)
        expression = f"least(greatest(coalesce({name}, {middle}), {low - width}), {high + width})"
        cleaned.append(f"{expression if place else name} AS {name}")
    connection.execute(f"COPY (SELECT {', '.join(cleaned)} FROM '{path}' WHERE c0 IS NOT NULL) TO '{clean}'")
    connection.execute(f"COPY (SELECT * FROM '{path}' WHERE c0 IS NULL) TO '{bad}'")


def scikit_learn(path: str, clean: str, bad: str) -> None:
    """scikit-learn's SimpleImputer, with pandas and NumPy for what it lacks."""
    import pandas as pd
    from sklearn.impute import SimpleImputer

    frame = pd.read_parquet(path)
    frame.describe()
    has_label = frame["c0"].notna()
    features = frame.columns[1:]
    quartiles = frame[features].quantile([0.25, 0.75])
    width = FACTOR * (quartiles.loc[0.75] - quartiles.loc[0.25])
    filled = pd.DataFrame(SimpleImputer(strategy="median").fit_transform(frame[features]), columns=features)
    filled = filled.clip(quartiles.loc[0.25] - width, quartiles.loc[0.75] + width, axis=1)
    filled.insert(0, "c0", frame["c0"])
    filled[has_label].to_parquet(clean)
    frame[~has_label].to_parquet(bad)


CONTENDERS: dict[str, Callable[[str, str, str], None]] = {
    "nanguard": nanguard,
    "nanguard, scan alone": nanguard_scan,
    "Polars, streaming": polars,
    "DuckDB": duckdb,
    "scikit-learn": scikit_learn,
}


def make(path: Path, num_rows: int, num_columns: int = 20) -> None:
    """Writes a table of float64: columns of several scales that go together, 5 % of cells null, a few outliers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    mixing = random.normal(size=(num_columns, num_columns)) / np.sqrt(num_columns)
    scales = 10.0 ** random.integers(-2, 4, num_columns)
    schema = pa.schema([(f"c{place}", pa.float64()) for place in range(num_columns)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_rows, 1 << 18):
            size = min(1 << 18, num_rows - start)
            rows = (random.standard_normal((size, num_columns)) @ mixing) * scales + scales
            rows[random.random(rows.shape) < 1e-4] *= 1e3
            gaps = random.random(rows.shape) < 0.05
            columns = [pa.array(rows[:, place], mask=gaps[:, place]) for place in range(num_columns)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def peak() -> int:
    """The most memory that this process has held, in bytes. What `getrusage` tells begins with its parent's."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def main(name: str, path: str, clean: str, bad: str) -> None:
    """Runs one contender and prints its times in seconds and its peak memory in bytes."""
    start = time.perf_counter()
    CONTENDERS[name](path, clean, bad)
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {"cpu": used.ru_utime + used.ru_stime, "wall": wall, "peak": peak(), "written": os.path.exists(clean)}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
