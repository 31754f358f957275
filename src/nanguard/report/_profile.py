"""The profile of a data set as text."""

from __future__ import annotations

from typing import Any

from nanguard import hazards

_MOST = 40  # columns of the table; a wider one shows those with trouble first


def profile_text(profile: Any) -> str:
    """Gives a profile as lines of text; the last one is the verdict.

    Args:
        profile: What `nanguard.clean.scan` gave.

    Returns:
        The text, with a newline at its end: a table of the columns, then their troubles by hazard.
    """
    columns = profile.columns
    shown = columns
    if len(columns) > _MOST:
        shown = sorted(columns, key=lambda column: not column.troubles)[:_MOST]
    lines = [f"{profile.source}", "", *_table(shown)]
    if len(shown) < len(columns):
        lines.append(f"... and {len(columns) - len(shown):,} more columns, all of them in --json FILE")
    if profile.num_whole < profile.num_rows:
        blank = f", {profile.num_blank:,} without any number" if profile.num_blank else ""
        lines += ["", f"{profile.num_whole:,} of {profile.num_rows:,} rows are whole{blank}"]
    lines += [*_troubles(profile), ""]
    return "\n".join([*lines, verdict(profile)]) + "\n"


def cleaning_text(done: Any, output: str, set_aside: str | None, saved: str | None) -> str:
    """Gives what a cleaning did as lines of text.

    Args:
        done: What `nanguard.clean.clean` gave.
        output: Where the rows went.
        set_aside: Where those went that were taken out, or None.
        saved: Where the cleaning itself was written to, or None.

    Returns:
        The text, with a newline at its end.
    """
    names = [name for name in done.recipe.names if done.num_filled.get(name) or done.num_bounded.get(name)]
    lines = []
    if names:
        width = max(6, *map(len, names))
        lines.append(f"{'column':<{width}}  {'filled':>10}  {'outliers':>10}")
        lines += [
            f"{name:<{width}}  {done.num_filled.get(name, 0):>10,}  {done.num_bounded.get(name, 0):>10,}"
            for name in names
        ]
        lines.append("")
    for reason, number in done.reasons.items():
        lines.append(f"{number:,} rows taken out: {reason}")
    where = (
        f", {done.num_set_aside:,} in {set_aside}"
        if set_aside
        else f", {done.num_set_aside:,} dropped"
        if done.num_set_aside
        else ""
    )
    if saved:
        lines.append(f"{saved} holds the same cleaning as a Keras layer.")
    lines.append(f"Of {done.num_rows:,} rows {done.num_kept:,} are in {output}{where}.")
    return "\n".join(lines) + "\n"


def verdict(profile: Any) -> str:
    """Gives the verdict as one sentence."""
    if not profile.hazards:
        return "All finite."
    touched = sum(any(trouble.hazard for trouble in column.troubles) for column in profile.columns)
    what = f"{len(profile.hazards)} hazard{'s' if len(profile.hazards) > 1 else ''}"
    return f"Found {what} in {touched} of {len(profile.columns)} columns."


def _table(columns: Any) -> list[str]:
    rows: list[tuple[str, ...]] = [("column", "type", "missing", "min", "median", "max", "outliers")]
    for column in columns:
        gaps = column.num_missing + column.num_infinite
        share = f" ({gaps / column.num_rows:.1%})" if gaps else ""
        values: tuple[str, ...]
        if column.kind == "number":
            values = (*map(_number, (column.min, column.quantiles.get(0.5), column.max)), f"{column.num_outliers:,}")
        elif column.kind == "datetime":
            values = (_short(column.min), "", _short(column.max), "")
        else:
            number = "more than 10,000" if column.num_values is None else f"{column.num_values:,}"
            values = (f"{number} values", _short(column.common[0][0]) if column.common else "", "", "")
        rows.append((_short(column.name, 28), _short(column.type, 16), f"{gaps:,}{share}", *values))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    align = "<<>>>>>"
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
        for row in rows
    ]


def _troubles(profile: Any) -> list[str]:
    found: dict[str | None, list[tuple[str, str]]] = {}
    for column in profile.columns:
        for trouble in column.troubles:
            found.setdefault(trouble.hazard, []).append((column.name, trouble.text))
    lines = []
    for code in sorted(found, key=lambda code: (code is None, code)):
        title = "also" if code is None else f"{code} {hazards.get(code).name}"
        width = max(len(name) for name, _ in found[code])
        lines += ["", title, *(f"  {name:<{width}}  {text}" for name, text in found[code])]
    if profile.together:
        lines += ["", "missing in the same rows"]
        lines += [f"  {', '.join(names)}: {number:,} rows" for names, number in profile.together]
    return lines


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.6g}"


def _short(value: Any, most: int = 20) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= most else text[: most - 3] + "..."
