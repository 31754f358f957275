"""A file much larger than the memory allowed is scanned and cleaned within it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ALLOWED = 320  # MB
COLUMNS = 20

# `VmHWM` and not `getrusage`: what that tells of a child begins with its parent's peak.
RUN = """
import sys
from nanguard import cli
code = cli.main(sys.argv[1:])
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0], file=sys.stderr)
sys.exit(code)
"""


def peak(*arguments: str) -> float:
    """Runs the command in a process of its own; gives its peak memory in MB."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return int(done.stderr.split()[-1]) / 1024


def write(path: Path, num_rows: int) -> None:
    """Writes a table of noise, which nothing makes smaller, with gaps."""
    random = np.random.default_rng(0)
    schema = pa.schema([(f"c{place}", pa.float64()) for place in range(COLUMNS)])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, num_rows, 1 << 18):
            size = min(1 << 18, num_rows - start)
            arrays = [pa.array(random.random(size), mask=random.random(size) < 0.05) for _ in range(COLUMNS)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_file(times: int, tmp_path: Path) -> None:
    """A file of as much, and of ten times as much, as `--memory` allows is read below it, and no row is lost."""
    num_rows = times * ALLOWED * (1 << 20) // (8 * COLUMNS)
    data, clean, bad = (tmp_path / f"{name}.parquet" for name in ("data", "clean", "bad"))
    write(data, num_rows)
    assert data.stat().st_size > 0.95 * times * ALLOWED * (1 << 20)
    budget = ("--memory", f"{ALLOWED}MiB", str(data))
    assert peak("scan", *budget) < ALLOWED
    given = ("--impute", "median", "--label", "c0", "-o", str(clean), "--quarantine", str(bad))
    assert peak("clean", *given, *budget) < ALLOWED
    kept, aside = (pq.read_metadata(path).num_rows for path in (clean, bad))
    assert kept + aside == num_rows
    assert aside == pytest.approx(0.05 * num_rows, rel=0.02)
