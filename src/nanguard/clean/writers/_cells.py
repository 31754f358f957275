"""What cleaning does to a batch: the cells that changed are replaced, all else goes out as it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.accumulator import Accumulator
from nanguard.clean.block import Block, Schema
from nanguard.clean.recipe import Recipe
from nanguard.clean.sources import _arrow
from nanguard.clean.sources._messages import shown
from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_EXACT = 2.0**53  # beyond it, float64 does not have every integer


def schema_after(
    schema: Schema,
    recipe: Recipe,
    modes: Mapping[str, Any] | None = None,
    *,
    learnt: Accumulator | None = None,
    gives_fractions: bool = True,
) -> pa.Schema:
    """The Arrow types of a table after its cleaning, decided once for all of it.

    A column keeps its type where that can hold what the cleaning writes. A column of integers or booleans becomes
    `float64` if a
    fraction may come into it: a bound, or what fills a gap. One with integers beyond 2^53, which float64 does not have,
    stays, and gets rounded numbers. A column of no values that is filled becomes `float64`.

    Args:
        schema: The columns before.
        recipe: How they are cleaned.
        modes: What fills columns of text.
        learnt: What is known of the table that is cleaned. Columns of which it tells that no cell will change keep
            their type; without it every column of the recipe may.
        gives_fractions: Whether what fills gaps may be a fraction in a column of integers, though `recipe.fill` is
            none.

    Returns:
        An Arrow schema with the columns of the table, in its order.
    """
    pa = need("pyarrow")
    places = {name: place for place, name in enumerate(recipe.names)}
    fields = []
    for field in _arrow.arrow_of(schema):
        place = places.get(field.name)
        if place is None or not (pa.types.is_null(field.type) or _is_whole(field.type)):
            fields.append(field)
            continue
        change = _Change(recipe, place, field.name, learnt, gives_fractions)
        fields.append(field.with_type(pa.float64()) if change.widens(pa.types.is_null(field.type)) else field)
    return pa.schema(fields)


class _Change:
    """What a recipe may do to one column."""

    def __init__(
        self, recipe: Recipe, place: int, name: str, learnt: Accumulator | None, gives_fractions: bool
    ) -> None:
        self._low, self._high, self._fill = recipe.low[place], recipe.high[place], recipe.fill[place]
        self._action, self._sentinels = recipe.action, recipe.sentinels[place]
        by_gaussian = recipe.gaussian is not None and recipe.fills_by_gaussian
        self._fills_fractions = gives_fractions or by_gaussian or _is_fraction(self._fill)
        known = learnt.names.index(name) if learnt is not None and name in learnt.names else None
        self._has_gaps = self._is_beyond = True
        self._extent = 0.0
        if learnt is not None and known is not None:
            low, high = learnt.min[known], learnt.max[known]
            self._is_beyond = bool(low < self._low or high > self._high)
            has_sentinel = any(low <= number <= high for number in self._sentinels)
            self._has_gaps = bool(learnt.num_missing[known] or learnt.num_infinite[known] or has_sentinel)
            self._extent = max(abs(low), abs(high)) if learnt.num_finite[known] else 0.0

    def widens(self, is_empty: bool) -> bool:
        """Whether the column has to become one of floats."""
        if is_empty:
            return not np.isnan(self._fill)
        if self._extent > _EXACT:
            return False
        makes_gaps = self._action == "impute" and self._is_beyond
        if (self._has_gaps or makes_gaps) and not np.isnan(self._fill) and self._fills_fractions:
            return True
        bounds = (self._low, self._high)
        return self._action == "clip" and self._is_beyond and any(map(_is_fraction, bounds))


def cleaned_batch(
    block: Block,
    schema: Schema,
    rows: Floats,
    changed: Mask,
    *,
    like: pa.Schema | None = None,
    modes: Mapping[str, Any] | None = None,
) -> pa.RecordBatch:
    """The rows of a block as Arrow, with the changed cells replaced.

    A column in which nothing changed is the one of the source, to the bit. One of floats may share the memory of
    `rows`. A cell that was changed into NaN is null. A number that is put into a column of integers is rounded, one
    that is too large for a float type becomes its largest number.

    Args:
        block: The rows as they came.
        schema: The columns of the source.
        rows: Shape (rows, columns of `schema.numbers`), float64: the cleaned numbers.
        changed: The same shape: which of them differ from those of the block.
        like: The types that the columns are to have, as `schema_after` gives them. Those of the source if left out.
        modes: What fills the nulls of columns of text, by name.

    Example:

    >>> block = Block(np.array([[1.0], [np.nan]]), np.zeros(1, np.int64), None, 0)
    >>> cleaned = np.array([[1.0], [2.5]])
    >>> cleaned_batch(block, Schema(("a",), ("a",)), cleaned, np.isnan(block.numbers)).to_pydict()
    {'a': [1.0, 2.5]}
    """
    pa = need("pyarrow")
    target = _arrow.arrow_of(schema) if like is None else like
    places = {name: place for place, name in enumerate(schema.numbers)}
    columns = []
    for field in target:
        place = places.get(field.name)
        if block.batch is None and place is not None:
            columns.append(_as_arrow(rows[:, place], changed[:, place] & np.isnan(rows[:, place]), field))
            continue
        column = block.column(field.name)
        if place is None:
            columns.append(_filled(column, modes.get(field.name) if modes else None))
        elif changed[:, place].any():
            columns.append(_replaced(column, field, rows[:, place], changed[:, place]))
        else:
            columns.append(column if column.type == field.type else column.cast(field.type, safe=False))
    return pa.RecordBatch.from_arrays(columns, schema=target)


def _replaced(column: pa.Array, field: pa.Field, numbers: Floats, changed: Mask) -> pa.Array:
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    are_floats = pa.types.is_floating(column.type) and pa.types.is_floating(field.type)
    if are_floats and not np.isnan(numbers).any():
        # The matrix has every cell of a column of floats to the bit: to look for those that changed takes far longer.
        return _as_arrow(numbers, None, field)
    new = numbers[changed]
    kept = column if column.type == field.type else column.cast(field.type, safe=False)
    return pc.replace_with_mask(kept, pa.array(changed), _as_arrow(new, np.isnan(new), field))


def _as_arrow(numbers: Floats, is_null: Mask | None, field: pa.Field) -> pa.Array:
    """Numbers in a type of Arrow's, null where told."""
    pa = need("pyarrow")
    kind = field.type
    if pa.types.is_floating(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
        if dtype == np.float64:
            return pa.array(np.ascontiguousarray(numbers), mask=is_null)
        limit = float(np.finfo(dtype).max)
        bounded = np.where(np.isfinite(numbers), np.clip(numbers, -limit, limit), numbers)
        return pa.array(bounded.astype(dtype), mask=is_null)
    if pa.types.is_boolean(kind):
        return pa.array(numbers >= 0.5, mask=is_null)
    if pa.types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        # The largest int64 is no float64; the next above it is, and does not fit.
        high = float(info.max) if float(info.max) < _EXACT else np.nextafter(float(info.max), 0.0)
        numbers = numbers if is_null is None else np.where(is_null, 0.0, numbers)
        bounded = np.clip(np.rint(numbers), float(info.min), high)
        return pa.array(bounded.astype(info.dtype), mask=is_null)
    try:
        return pa.array(np.round(numbers, getattr(kind, "scale", 0)), mask=is_null).cast(kind)
    except pa.ArrowInvalid as error:
        raise UsageError(
            f"Column {field.name!r} is {kind}, which does not hold {shown(float(np.nanmax(np.abs(numbers))))}."
        ) from error


def _filled(column: pa.Array, value: Any) -> pa.Array:
    pa = need("pyarrow")
    if value is None or not column.null_count:
        return column
    if pa.types.is_dictionary(column.type):
        plain = column.cast(column.type.value_type).fill_null(value)
        return plain.dictionary_encode().cast(column.type)
    return column.fill_null(value)


def _is_whole(kind: pa.DataType) -> bool:
    pa = need("pyarrow")
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _is_fraction(number: float) -> bool:
    return bool(np.isfinite(number) and number != np.rint(number))
