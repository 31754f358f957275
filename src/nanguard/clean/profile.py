"""A data set as `nanguard scan` tells of it: each column's numbers, and what of them would harm a training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from nanguard.clean import fitting, troubles
from nanguard.clean.categories import Categories
from nanguard.clean.options import Options
from nanguard.clean.survey import Survey
from nanguard.clean.troubles import Trouble

_SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclasses.dataclass(frozen=True)
class ColumnProfile:
    """What was found in one column. Numbers are in the column's own units; None where it has none.

    Attributes:
        name: The column.
        kind: "number", "category", "text" or "datetime".
        type: Its type in the words of its source.
        num_rows: Rows seen.
        num_nulls, num_nans, num_infinite: Cells that are null, NaN and infinite.
        min, max, mean, std: Of its finite numbers; the standard deviation is that of the population.
        quantiles: The values below which 1, 25, 50, 75 and 99 % of its numbers lie, by share.
        num_outliers: Cells beyond Tukey's far-out fences, three interquartile ranges from the quartiles.
        num_values: How many different values, of a category; None if above 10,000.
        common: The most frequent values of a category, with their counts.
        troubles: What harms.
    """

    name: str
    kind: str
    type: str
    num_rows: int
    num_nulls: int = 0
    num_nans: int = 0
    num_infinite: int = 0
    min: Any = None
    max: Any = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[float, float] = dataclasses.field(default_factory=dict)
    num_outliers: int = 0
    num_values: int | None = None
    common: tuple[tuple[Any, int], ...] = ()
    troubles: tuple[Trouble, ...] = ()

    @property
    def num_missing(self) -> int:
        """Cells that are null or NaN."""
        return self.num_nulls + self.num_nans


@dataclasses.dataclass(frozen=True)
class Profile:
    """What was found in a data set.

    Attributes:
        source: Where it is from.
        num_rows: Rows seen.
        num_whole: Rows that miss no cell and hold no infinity.
        num_blank: Rows without any number.
        columns: One profile for each column, in the order of the table.
        together: Groups of columns that are missing in the same rows, with how many rows.
    """

    source: str
    num_rows: int
    num_whole: int
    num_blank: int
    columns: tuple[ColumnProfile, ...]
    together: tuple[tuple[tuple[str, ...], int], ...] = ()

    @property
    def hazards(self) -> tuple[str, ...]:
        """The codes of the catalogue that were met, sorted."""
        return tuple(sorted({t.hazard for column in self.columns for t in column.troubles if t.hazard}))

    def to_json(self) -> dict[str, Any]:
        """All of it as `report.schema("scan")` describes it; a number that is not finite and a time are text."""
        return {"schema": "nanguard.scan/1", **_plain(dataclasses.asdict(self)), "hazards": list(self.hazards)}


def profile(survey: Survey, source: str, *, label: str | None = None) -> Profile:
    """Makes a profile of what a survey has learnt.

    Args:
        survey: Of the whole table, with products.
        source: What the data is called.
        label: The column that holds the targets, or None.
    """
    types = survey.schema.types
    twins = troubles.twins(survey.numbers)
    made = {
        name: _number(survey, place, twins.get(name), is_label=name == label)
        for place, name in enumerate(survey.numbers.names)
    }
    for name, categories in survey.categories.items():
        made[name] = _category(name, types.get(name, ""), categories, is_label=name == label)
    for name, times in survey.times.items():
        found = troubles.gaps(times.num_nulls, 0, 0, is_label=name == label)
        ends = {"min": times.first, "max": times.last}
        made[name] = ColumnProfile(
            name, "datetime", types.get(name, ""), times.num_rows, times.num_nulls, **ends, troubles=tuple(found)
        )
    columns = tuple(made[name] for name in survey.schema.names if name in made)
    counts = survey.numbers.num_rows, survey.num_whole, survey.num_blank
    return Profile(source, *counts, columns, troubles.missing_together(survey.numbers))


def _number(survey: Survey, place: int, twin: str | None, *, is_label: bool) -> ColumnProfile:
    numbers = survey.numbers
    name = numbers.names[place]
    histogram = numbers.histograms[place]
    num_nulls, num_nans = int(numbers.num_nulls[place]), int(numbers.num_nans[place])
    num_infinite = int(numbers.num_infinite[place])
    class_ids = troubles.class_ids(histogram) if is_label else []
    found = [
        *troubles.gaps(num_nulls, num_nans, num_infinite, is_label=is_label),
        *troubles.pattern(numbers, place),
        *(class_ids or troubles.sentinel(histogram)),
        *troubles.shape(numbers, place, is_label=is_label),
        *troubles.twin(twin),
    ]
    base = ColumnProfile(
        name,
        "number",
        survey.schema.types.get(name, "float64"),
        numbers.num_rows,
        num_nulls=num_nulls,
        num_nans=num_nans,
        num_infinite=num_infinite,
        troubles=tuple(found),
    )
    if not histogram.num_values:
        return base
    _, mean, variance = histogram.moments()
    is_within = histogram.within(*fitting.fence(histogram, Options()))
    return dataclasses.replace(
        base,
        min=float(numbers.min[place]),
        max=float(numbers.max[place]),
        mean=mean,
        std=math.sqrt(variance),
        quantiles=dict(zip(_SHARES, histogram.quantiles(_SHARES).tolist(), strict=True)),
        num_outliers=int(histogram.counts[~is_within].sum()),
    )


def _category(name: str, kind: str, categories: Categories, *, is_label: bool) -> ColumnProfile:
    found = [*troubles.gaps(categories.num_nulls, 0, 0, is_label=is_label), *troubles.wording(categories)]
    return ColumnProfile(
        name,
        "text" if categories.is_text else "category",
        kind,
        categories.num_rows,
        categories.num_nulls,
        num_values=categories.num_values,
        common=tuple(categories.common(5)),
        troubles=tuple(found),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    return int(value) if isinstance(value, np.integer) else str(value)
