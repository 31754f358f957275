"""What of a column's numbers would harm a training: each is held against the catalogue's hazards of data."""

from __future__ import annotations

import dataclasses

import numpy as np

from nanguard.clean import sentinels
from nanguard.clean.accumulator import Accumulator
from nanguard.clean.categories import Categories
from nanguard.clean.histogram import Histogram
from nanguard.hazards import data as hazards

# Two columns whose correlation is this near to one say the same thing.
_TWIN = 0.9999
# Of a float32 three digits are left at this ratio of a number to what it varies by.
_OFFSET = 1e4
# Inputs of a larger deviation than this make the first steps of common networks explode.
_LARGE = 1000.0
_LARGEST_HALF = 65504.0
# Ids that people give to what is of no class, and how many classes a label has at most that is no quantity.
_NO_CLASS = (-100.0, -1.0, 255.0, 65535.0)
_MOST_CLASSES = 256


@dataclasses.dataclass(frozen=True)
class Trouble:
    """Something about a column that harms a training.

    Attributes:
        hazard: The code in the catalogue, such as NG701, or None for what is odd and no hazard.
        text: What it is, in one sentence.
        count: How many cells it concerns, or None.
    """

    hazard: str | None
    text: str
    count: int | None = None


def gaps(num_nulls: int, num_nans: int, num_infinite: int, *, is_label: bool) -> list[Trouble]:
    """Cells that hold no finite number."""
    hazard = hazards.MISSING_LABELS if is_label else hazards.NAN_OR_INF_IN_FEATURES
    what = "label" if is_label else "cell"
    return [
        Trouble(hazard.code, f"{number:,} {what}{' is' if number == 1 else 's are'} {kind}", number)
        for number, kind in ((num_nulls, "null"), (num_nans, "NaN"), (num_infinite, "infinite"))
        if number
    ]


def pattern(numbers: Accumulator, place: int) -> list[Trouble]:
    """Whether a column's cells are missing in stretches of the table, rather than all over it."""
    missing = int((numbers.num_missing + numbers.num_infinite)[place])
    timeline = numbers.timeline
    rows = timeline.num_rows
    if missing < 20 or len(rows) < 8 or missing > 0.95 * numbers.num_rows:
        return []
    shares = timeline.num_missing[:, place] / np.maximum(rows, 1)
    whole = missing / numbers.num_rows
    # What the share of a stretch varies by if cells are missing at random.
    deviation = np.sqrt(whole * (1 - whole) / np.maximum(rows, 1))
    if (np.abs(shares - whole) / deviation).max() < 10:
        return []
    length = 1 << timeline.shift
    full = np.flatnonzero(shares > 0.9)
    if len(full):
        start, end = full[0] * length, min((full[-1] + 1) * length, numbers.num_rows)
        return [Trouble(None, f"missing in whole stretches, between rows {start:,} and {end:,}")]
    return [
        Trouble(None, f"missing more in some stretches than in others: up to {shares.max():.0%} of {length:,} rows")
    ]


def sentinel(histogram: Histogram) -> list[Trouble]:
    """Numbers that may stand for a missing cell."""
    return [
        Trouble(
            hazards.OUTLIER_ROWS.code,
            f"{number:g} came {count:,} times and may stand for a missing cell: --sentinel {number:g}",
            count,
        )
        for number, count in sentinels.proposed(histogram)
    ]


def class_ids(histogram: Histogram) -> list[Trouble]:
    """Of labels that are class ids but for what people write for no class: the ids that no output stands for."""
    ids = np.round(histogram.values)
    # The mean of equal numbers is theirs up to rounding.
    if len(ids) > _MOST_CLASSES or not np.allclose(histogram.values, ids, rtol=1e-12, atol=1e-9):
        return []
    classes = ids[np.isin(ids, _NO_CLASS, invert=True)]
    if len(classes) < 2 or classes[0] not in (0, 1) or (np.diff(classes) != 1).any():
        return []
    first, last = int(classes[0]), int(classes[-1])
    found = [
        Trouble(
            hazards.LABEL_OUT_OF_RANGE.code,
            f"{number:g} came {count:,} times beside class ids from {first} to {last}: it is out of range as one",
            int(count),
        )
        for number, count in zip(ids.tolist(), histogram.counts.tolist(), strict=True)
        if number not in classes
    ]
    if first == 1:
        found.append(Trouble(None, f"whole numbers from 1 to {last}: as class ids they would begin at 0"))
    return found


def shape(numbers: Accumulator, place: int, *, is_label: bool) -> list[Trouble]:
    """Whether a column is constant, far from 0, of a large scale, or has a number that no other is near."""
    histogram = numbers.histograms[place]
    if not histogram.num_values:
        return []
    low, high = float(numbers.min[place]), float(numbers.max[place])
    largest = low if abs(low) > abs(high) else high
    center, reach = numbers.centers[place], numbers.reach[place]
    is_near = np.isfinite(reach) and max(center - low, high - center) > reach
    found = []
    if is_near:
        found.append(
            Trouble(hazards.OUTLIER_ROWS.code, f"goes to {largest:.3g}, and nearly all others are near {center:.3g}")
        )
    _, mean, variance = histogram.moments(*((center - reach, center + reach) if is_near else ()))
    scale = float(np.sqrt(variance))
    if low == high:
        found.append(Trouble(hazards.PREPROCESSING_MADE_NONFINITE.code, f"constant, {low:g}: scaling it is 0 / 0"))
    elif not is_label and abs(mean) > _OFFSET * scale:
        found.append(
            Trouble(
                hazards.UNSCALED_INPUTS.code, f"{mean:.3g} give or take {scale:.3g}: float32 keeps few of its digits"
            )
        )
    elif not is_label and scale > _LARGE:
        found.append(
            Trouble(
                hazards.UNSCALED_INPUTS.code, f"of a large scale, {scale:.3g}: first steps explode unless it is scaled"
            )
        )
    if abs(largest) > float(np.finfo(np.float32).max):
        found.append(Trouble(hazards.NAN_OR_INF_IN_FEATURES.code, f"{largest:.3g} is infinite in float32"))
    elif abs(largest) > _LARGEST_HALF:
        found.append(Trouble(None, f"{largest:.3g} is infinite in float16, which ends at 65,504"))
    return found


def twin(name: str | None) -> list[Trouble]:
    """Whether a column repeats another."""
    return [] if name is None else [Trouble(None, f"says the same as {name!r}: their correlation is above {_TWIN}")]


def wording(categories: Categories) -> list[Trouble]:
    """Words for "nothing", numbers kept as text, and nothing but one value."""
    found = []
    blanks = sentinels.words(categories)
    if blanks:
        shown = ", ".join(f"{value!r} ({count:,})" for value, count in blanks[:4])
        num_blanks = sum(count for _, count in blanks)
        found.append(Trouble(None, f"words that may stand for a missing cell: {shown}", num_blanks))
    known = [value for value in categories.counts if value not in dict(blanks)]
    numeric = {value for value in known if _is_number(value)}
    if numeric and len(numeric) >= 0.9 * len(known):
        others = [value for value in known if value not in numeric]
        rest = f", but for {others[0]!r}" if others else ""
        found.append(Trouble(None, f"numbers kept as text, such as {min(numeric)!r}{rest}"))
    if categories.num_values == 1 and not categories.num_nulls:
        found.append(Trouble(None, f"constant, {categories.mode!r}"))
    return found


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except ValueError:
        return False
    return isinstance(value, str)


def twins(numbers: Accumulator) -> dict[str, str]:
    """For each column an earlier one that says the same, up to scale and sign."""
    if not numbers.with_products:
        return {}
    _, covariance = numbers.covariance()
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(covariance / np.outer(deviation, deviation))
    same = np.tril((correlation > _TWIN) & (numbers.pairs > 10), -1)
    return {
        numbers.names[late]: numbers.names[int(np.flatnonzero(same[late])[0])] for late in np.flatnonzero(same.any(1))
    }


def missing_together(numbers: Accumulator) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Columns whose cells are missing in exactly the same rows of the sample, and how many rows that is in all."""
    is_missing = ~np.isfinite(numbers.sample.rows)
    groups: dict[bytes, list[int]] = {}
    for place in np.flatnonzero(is_missing.any(0)):
        groups.setdefault(np.packbits(is_missing[:, place]).tobytes(), []).append(int(place))
    counts = numbers.num_missing + numbers.num_infinite
    return tuple(
        (tuple(numbers.names[place] for place in places), int(counts[places[0]]))
        for places in groups.values()
        if len(places) > 1 and len({int(counts[place]) for place in places}) == 1
    )
