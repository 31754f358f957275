"""The way of a table through scan and cleaning: learn in one pass, fit, clean in a second."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import fillers, fitting, quarantine, rows, sequences, sources, threads, writers
from nanguard.clean.block import Block
from nanguard.clean.options import Options
from nanguard.clean.profile import Profile, profile
from nanguard.clean.recipe import Cleaned, Recipe
from nanguard.clean.survey import Survey, survey
from nanguard.errors import UsageError

Floats = NDArray[np.float64]

CATEGORIES = ("pass", "mode")
Watch = Callable[[Any, str], Any]

# What the process has before it reads, with all libraries, and how many copies of a block are alive at a time.
_BASE_BYTES = 250 << 20
_COPIES = 12
_BATCH_ROWS = 65_536


@dataclasses.dataclass
class Cleaning:
    """What a cleaning did.

    Attributes:
        recipe: How each column was cleaned.
        num_rows: Rows read; always the sum of the next two.
        num_kept: Rows written to the output.
        num_set_aside: Rows that went to the quarantine, or were dropped.
        num_filled: Cells filled, by column.
        num_bounded: Cells moved to a bound or taken for missing because they lay beyond it, by column.
        reasons: How many rows were set aside for which reason.
    """

    recipe: Recipe
    num_rows: int = 0
    num_kept: int = 0
    num_set_aside: int = 0
    num_filled: dict[str, int] = dataclasses.field(default_factory=dict)
    num_bounded: dict[str, int] = dataclasses.field(default_factory=dict)
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it as `report.schema("cleaning")` describes it."""
        counts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "recipe"}
        return {"schema": "nanguard.cleaning/1", **counts, "recipe": self.recipe.to_json()}


def scan(
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    options: Options | None = None,
    engine: Any = None,
    memory: int | None = None,
    watch: Watch | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Profile:
    """Goes once through a data set and tells of each column what would harm a training.

    Args:
        data: An array, a frame of pandas, polars or pyarrow, a dict of columns, a `tf.data.Dataset`, a `PyDataset`, or
            the path of a CSV, Parquet, TFRecord or NPZ file, a folder or a glob of them.
        columns: Which columns; all if left out.
        label: The column that holds the targets.
        options: Its `sentinels` stand for missing cells.
        engine: What goes through the data; this process if left out.
        memory: How many bytes the process is to stay below; blocks of rows are made as small as that needs.
        watch: Is given the source and a word for what is done, and gives what to read in its place: a progress bar.
        reading: What `sources.open` is told of a CSV file: `dtypes`, `delimiter`, `encoding`.

    Raises:
        UsageError: If the data cannot be read, or has no row.

    Example:

    >>> found = scan({"height": [1.7, float("nan"), 1.8], "age": [31.0, 40.0, 25.0]})
    >>> [column.num_missing for column in found.columns]
    [1, 0]
    """
    source = _opened(data, memory, columns=columns, label=label, **(reading or {}))
    source = source if watch is None else watch(source, "scan")
    return profile(_survey(source, options or Options(), engine, with_products=True), source.describe(), label=label)


def clean(
    data: Any,
    output: str,
    *,
    set_aside: str | None = None,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    options: Options | None = None,
    categories: str = "pass",
    force: bool = False,
    engine: Any = None,
    memory: int | None = None,
    watch: Watch | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Cleaning:
    """Cleans a data set into a file: gaps filled, outliers bounded, rows that cannot be repaired set aside.

    Each row of the data is either in the output or in the quarantine, and that is counted and checked before either
    file gets its name. Columns that are not cleaned go through as they are.

    Args:
        data: As `scan` takes it; it is read twice.
        output: Where the rows go: a .parquet, .csv, .npz or .tfrecord file.
        set_aside: Where the rows go that are taken out, as a .parquet or .tfrecord file. Without it, rows are taken out
            by `outliers="drop"` only, and a row without a label or without any number stays.
        columns: Which columns are cleaned; all with numbers if left out.
        label: The column that holds the targets: it is not filled, and a row without one is set aside.
        options: What is done.
        categories: What is done about missing text: "pass", or "mode" for the most frequent value of the column.
        force: Whether files that exist are overwritten.
        engine: What goes through the data to learn; this process if left out.
        memory: How many bytes the process is to stay below; blocks of rows are made as small as that needs.
        watch: Is given the source and a word for what is done, and gives what to read in its place: a progress bar.
        reading: What `sources.open` is told of a CSV file: `dtypes`, `delimiter`, `encoding`.

    Raises:
        UsageError: If the data cannot be read or the output cannot be written. No file is left under its final name.
    """
    options = options or Options()
    if categories not in CATEGORIES:
        raise ValueError(f"`categories` must be 'pass' or 'mode'. Received: categories={categories!r}.")
    if options.outliers == "quarantine" and set_aside is None:
        raise UsageError("Rows are to be set aside, and there is no file for them. Name one: --quarantine FILE.")
    source = _opened(data, memory, label=label, **(reading or {}))
    if not source.is_replayable:
        raise UsageError(f"{source.name} can be read only once, and cleaning reads it twice. Write it to a file first.")
    source = source if watch is None else watch(source, "clean")
    table = _Table(source, columns, label, options, engine)
    modes = {name: found.mode for name, found in table.survey.categories.items()} if categories == "mode" else {}
    done = Cleaning(table.recipe)
    like = table.schema_after(modes)
    written = writers.schema_with(like, table.recipe.indicators)
    with (
        threads.one(),
        writers.open(output, source.schema, like=written, force=force) as kept,
        quarantine.open(set_aside, source.schema, beside=kept, force=force) as aside,
    ):
        for block, cleaned in table.cleaned():
            reasons = table.judge(block, cleaned, takes_out=set_aside is not None)
            whole = table.whole(block, cleaned)
            changed = (whole != block.numbers) & ~(np.isnan(whole) & np.isnan(block.numbers))
            batch = writers.cleaned_batch(block, source.schema, whole, changed, like=like, modes=modes)
            batch = writers.batch_with(batch, written, cleaned.is_missing[:, table.recipe.has_indicator])
            kept.write(batch if not reasons.is_bad.any() else batch.filter(_arrow(~reasons.is_bad)))
            aside.write(block, reasons)
            _count(done, table.recipe.names, cleaned, reasons)
        expected = table.survey.numbers.num_rows
        if done.num_rows != expected:
            raise UsageError(
                f"{source.name} had {expected:,} rows when it was learnt from and {done.num_rows:,} when it was "
                "cleaned. Is something writing to it? Nothing was written."
            )
    return done


def _opened(data: Any, memory: int | None, **reading: Any) -> sources.Source:
    source = sources.open(data, **reading)
    if memory is None or not source.is_replayable:  # batches that are handed in have the size that they have
        return source
    per_row = 8 * max(len(source.schema.names), 1)
    batch_rows = (memory - _BASE_BYTES) // (_COPIES * per_row)
    if batch_rows < 1:
        raise UsageError(
            f"{memory >> 20} MB are too few: reading takes {_BASE_BYTES >> 20} MB and some rows. Allow more."
        )
    return sources.open(data, **reading, batch_rows=min(batch_rows, _BATCH_ROWS))


class _Table:
    """A source with what was learnt of it, and how it is cleaned."""

    def __init__(
        self, source: Any, columns: Sequence[str] | None, label: str | None, options: Options, engine: Any
    ) -> None:
        self.source, self.label, self.options = source, label, options
        numbers = source.schema.numbers
        self.names = _chosen(columns, source, label)
        self.places = [numbers.index(name) for name in self.names]
        self._groups = fillers.Groups(options.group, source.schema)
        self.survey: Survey = _survey(source, options, engine, with_products=options.covariance == "pairwise")
        learnt = self.learnt = self.survey.numbers.select(self.names)
        self.recipe = fitting.fit(learnt, options)
        sample = self._bounded(learnt.sample.rows)
        self._filler = fillers.make(
            options, ((b, self._bounded(b.numbers[:, self.places])) for b in source.blocks()), sample, self._groups
        )
        self._forest = None
        if options.bounds == "isolation_forest" and options.outliers is not None:
            self._forest = rows.isolation_forest(learnt.sample.rows, options)

    def _bounded(self, numbers: Floats) -> Floats:
        """Rows as the recipe leaves them before it fills."""
        return (
            dataclasses.replace(self.recipe, fill=np.full(len(self.names), np.nan), gaussian=None).clean(numbers).rows
        )

    def schema_after(self, modes: dict[str, Any]) -> Any:
        """The types of the columns once they are cleaned."""
        gives_fractions = self.options.impute in ("knn", "trees", "group_mean", "interpolate")
        return writers.schema_after(
            self.source.schema, self.recipe, modes, learnt=self.learnt, gives_fractions=gives_fractions
        )

    def cleaned(self) -> Iterator[tuple[Block, Cleaned]]:
        """Goes through the table once more."""
        for block, is_spike in self._with_spikes():
            fill = None if self._filler is None else functools.partial(self._filler.fill, block)
            yield block, self.recipe.clean(block.numbers[:, self.places], fill, is_spike)

    def _with_spikes(self) -> Iterator[tuple[Block, NDArray[np.bool_] | None]]:
        """Each block with the cells that jump out of their neighbourhood, some of which is in the blocks beside it."""
        if self.options.bounds != "hampel" or self.options.outliers is None:
            yield from ((block, None) for block in self.source.blocks())
            return
        window = self.options.window
        groups = self._groups
        nothing = np.empty((0, len(self.names))), np.empty(0, np.int64)
        before, held, now = nothing, None, nothing
        for following in itertools.chain(self.source.blocks(), (None,)):
            after = nothing
            if following is not None:
                after = self._bounded(following.numbers[:, self.places]), groups.codes(following)
            if held is not None:
                is_near = sequences.heads(after[1], window)
                near = after[0][is_near], after[1][is_near]
                rows, codes = (np.concatenate(parts) for parts in zip(before, now, near, strict=True))
                found = sequences.hampel(rows, window=window, threshold=self.options.limit, codes=codes)
                yield held, found[len(before[0]) : len(before[0]) + len(held)]
                rows, codes = rows[: len(rows) - len(near[0])], codes[: len(codes) - len(near[1])]
                is_last = sequences.heads(codes[::-1], window)[::-1]
                before = rows[is_last], codes[is_last]
            held, now = following, after

    def whole(self, block: Block, cleaned: Cleaned) -> Floats:
        """All numbers of a block, the cleaned ones in their places."""
        if self.places == list(range(block.numbers.shape[1])):
            return cleaned.rows
        whole = block.numbers.copy(order="F")
        whole[:, self.places] = cleaned.rows
        return whole

    def judge(self, block: Block, cleaned: Cleaned, *, takes_out: bool) -> rows.Reasons:
        """Which rows leave, and why."""
        reasons = rows.Reasons(len(block), self.names)
        rows.judge(reasons, cleaned, block.numbers[:, self.places], self.options, self._forest, takes_out=takes_out)
        if takes_out and self.label is not None:
            reasons.add("no label", ~_has_label(block, self.source.schema, self.label), column=self.label)
        return reasons


def _chosen(columns: Sequence[str] | None, source: Any, label: str | None) -> tuple[str, ...]:
    numbers = source.schema.numbers
    chosen = tuple(numbers if columns is None else columns)
    for name in chosen:
        if name not in numbers:
            what = "is not a column of numbers" if name in source.schema.names else "is no column"
            raise UsageError(f"{name!r} {what} of {source.name}. It has: {', '.join(numbers)}.")
    return tuple(name for name in chosen if name != label)


def _survey(source: Any, options: Options, engine: Any, *, with_products: bool) -> Survey:
    if engine is not None:
        found: Survey = engine.survey(source, options, with_products=with_products)
        return found
    with threads.one():
        return survey(source.schema, source.blocks(), options, with_products=with_products)


def _has_label(block: Block, schema: Any, label: str) -> NDArray[np.bool_]:
    if label in schema.numbers:
        return np.asarray(np.isfinite(block.numbers[:, schema.numbers.index(label)]))
    return np.asarray(block.column(label).is_valid().to_numpy(zero_copy_only=False))


def _count(done: Cleaning, names: Sequence[str], cleaned: Cleaned, reasons: rows.Reasons) -> None:
    is_kept = ~reasons.is_bad
    done.num_rows += len(is_kept)
    done.num_kept += int(is_kept.sum())
    done.num_set_aside += int(reasons.is_bad.sum())
    for counts, cells in ((done.num_filled, cleaned.is_missing), (done.num_bounded, cleaned.is_outlier)):
        for name, number in zip(names, cells[is_kept].sum(0).tolist(), strict=True):
            counts[name] = counts.get(name, 0) + number
    for reason, number in reasons.counts().items():
        done.reasons[reason] = done.reasons.get(reason, 0) + number


def _arrow(mask: NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return pa.array(mask)
