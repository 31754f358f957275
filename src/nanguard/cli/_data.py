"""The arguments of `nanguard scan` and `nanguard clean`."""

from __future__ import annotations

import argparse
from typing import Any

_SCAN = """\
Goes once through a data set and tells of each column what is missing, NaN or infinite, its range, quantiles and
outliers, and what of it would harm a training. DATA is a CSV, Parquet, TFRecord, NPZ or NPY file, a folder or a quoted
glob of them.
"""
_SCAN_EPILOG = "The exit code is 0 if all is finite, 1 if a hazard was found, 2 if the data cannot be read."
_CLEAN = """\
Fills missing numbers, bounds outliers, and sets the rows aside that cannot be repaired. Each row of DATA is in the
output or in the quarantine; neither file gets its name before that was counted. Columns without trouble go through as
they are.
"""
_CLEAN_EPILOG = "The exit code is 0 if the output was written, 2 if not: then there is no output."
_IMPUTE = (
    "gaussian",
    "mean",
    "median",
    "mode",
    "constant",
    "knn",
    "trees",
    "group_mean",
    "ffill",
    "bfill",
    "interpolate",
    "none",
)
_BOUNDS = ("iqr", "mad", "zscore", "quantile", "mahalanobis", "isolation_forest", "hampel")


def add_parsers(commands: Any) -> None:
    """Adds the two commands."""
    scan = commands.add_parser(
        "scan",
        help="tell what in a data set would harm a training",
        description=_SCAN,
        epilog=_SCAN_EPILOG,
        allow_abbrev=False,
    )
    _add_common(scan)
    scan.add_argument("data", nargs="+", metavar="DATA", help="a file, a folder or a quoted glob")
    clean = commands.add_parser(
        "clean", help="repair a data set", description=_CLEAN, epilog=_CLEAN_EPILOG, allow_abbrev=False
    )
    _add_common(clean)
    clean.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="where the rows go: .parquet, .csv, .npz or .tfrecord"
    )
    clean.add_argument("--quarantine", metavar="FILE", help="where rows go that are taken out: .parquet or .tfrecord")
    clean.add_argument("--save", metavar="FILE", help="write the cleaning as a Keras model of one layer, .keras")
    clean.add_argument("--impute", choices=_IMPUTE, default="gaussian", help="how numbers are filled (gaussian)")
    clean.add_argument("--fill-value", type=float, metavar="X", help="the number for --impute constant")
    clean.add_argument(
        "--group", metavar="COLUMN", help="the column by whose values rows are groups, or sequences of their own"
    )
    clean.add_argument("--outliers", choices=("clip", "impute", "drop", "quarantine", "none"), default="clip",
                       help="what is done about numbers beyond their column's bounds (clip)")  # fmt: skip
    clean.add_argument("--bounds", choices=_BOUNDS, default="iqr", help="how bounds are found (iqr)")
    clean.add_argument("--threshold", type=float, metavar="X", help="how far is too far, in the units of --bounds")
    clean.add_argument("--window", type=int, metavar="N", help="for --bounds hampel: rows on either side (7)")
    clean.add_argument(
        "--indicators", action="store_true", help="add a column of 0 and 1 for each column that had gaps"
    )
    clean.add_argument(
        "--categories", choices=("pass", "mode"), default="pass", help="what is done about missing text (pass)"
    )
    clean.add_argument(
        "--restore", action="store_true", help="put the rows of --quarantine back into DATA, a cleaned file"
    )
    clean.add_argument("data", nargs="+", metavar="DATA", help="a file, a folder or a quoted glob")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--columns", metavar="A,B", help="only these columns")
    parser.add_argument("--label", metavar="COLUMN", help="the column that holds the targets")
    parser.add_argument(
        "--sentinel", action="append", metavar="[COLUMN=]X", help="a number that stands for a missing cell"
    )
    parser.add_argument("--delimiter", metavar="X", help="of a CSV file: what stands between its cells (a comma)")
    parser.add_argument(
        "--dtype", action="append", metavar="COLUMN=TYPE", help="of a CSV file: a column's type, such as code=string"
    )
    parser.add_argument("--encoding", default="utf-8", metavar="NAME", help="of a CSV file: such as latin-1 (utf-8)")
    parser.add_argument("--memory", type=_bytes, metavar="SIZE", help="stay below this much memory, such as 512MB")
    parser.add_argument(
        "--engine", choices=("local", "dask", "beam"), default="local", help="what goes through the data (local)"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, such as tcp://host:8786")
    parser.add_argument("--beam", action="append", metavar="OPTION=X",
                        help="of a Beam pipeline, such as runner=FlinkRunner")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write what was found to FILE as JSON")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def _bytes(text: str) -> int:
    """A size such as 512MB or 2GiB in bytes."""
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
    number = text.strip().lower().rstrip("bgikm")
    unit = text.strip().lower()[len(number) :]
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"a size such as 512MB, not {text!r}") from None
