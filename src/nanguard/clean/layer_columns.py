"""Which columns the layer has learnt, in what form they come, and one line for what cannot be cleaned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from nanguard.clean import recipe

Shape = tuple["int | None", ...]


@dataclasses.dataclass(frozen=True)
class Columns:
    """What was learnt that is no number; it goes into the layer's config.

    Attributes:
        numbers: The columns that are cleaned, in the order of a matrix.
        has_indicator: For each of them, whether an indicator is added.
        words: The columns of text, each with its most frequent value or None.
        others: Columns that are neither; they pass.
    """

    numbers: tuple[str, ...]
    has_indicator: tuple[bool, ...]
    words: dict[str, str | None] = dataclasses.field(default_factory=dict)
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.indicators:
            if name in self.names:
                raise ValueError(f"The indicator {name!r} would have the name of a column. Rename the column.")

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Columns:
        """What `dataclasses.asdict` and a JSON file have made lists of."""
        has_indicator = tuple(map(bool, config["has_indicator"]))
        return cls(tuple(config["numbers"]), has_indicator, dict(config["words"]), tuple(config["others"]))

    @property
    def names(self) -> tuple[str, ...]:
        """All columns."""
        return (*self.numbers, *self.words, *self.others)

    @property
    def indicators(self) -> tuple[str, ...]:
        """The names of the indicators."""
        return recipe.indicators(self.numbers, self.has_indicator)

    @property
    def width(self) -> int:
        """How many columns a cleaned matrix has."""
        return len(self.numbers) + sum(self.has_indicator)


def form(inputs: Mapping[str, Any], names: Sequence[str]) -> tuple[Shape, bool]:
    """The shape of the columns of numbers, and whether they are joined along its last axis, which then has length 1."""
    shapes = {name: tuple(inputs[name].shape) for name in names}
    first = shapes[names[0]] if names else ()
    for name, shape in shapes.items():
        if len(shape) != len(first) or any(a != b for a, b in zip(shape, first, strict=True) if None not in (a, b)):
            raise ValueError(f"Columns must have one shape. Received: {names[0]!r} {first} and {name!r} {shape}.")
    return first, len(first) > 1 and first[-1] == 1


def tensor_like(x: Any) -> Any:
    """What has a shape and a dtype; a list as a tensor.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(x, list | tuple | float | int):
        return tf.convert_to_tensor(x)
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return x
    raise ValueError(
        f"A Cleaner is called with an array, a tensor or a dict of them; frames go through its `transform`. "
        f"Received: {type(x).__name__}."
    )


def check_matrix(x: Any, columns: Columns | None) -> None:
    """Checks that rows are numbers in as many columns as were learnt; `columns` is None if none were.

    Raises:
        ValueError: If not.
    """
    _check_numbers(x, "The rows")
    shape = tuple(x.shape)
    if not shape:
        raise ValueError("Rows have their columns in the last axis. Received: a single number.")
    if columns is not None and shape[-1] not in (None, len(columns.numbers)):
        raise ValueError(
            f"The Cleaner has learnt {len(columns.numbers)} columns of numbers ({listed(columns.numbers)}). "
            f"Received: shape {shape}."
        )


def check_columns(inputs: Mapping[str, Any], columns: Columns, *, may_have_others: bool, needs_all: bool) -> None:
    """Checks named columns against those that were learnt.

    Args:
        inputs: What came.
        columns: What was learnt.
        may_have_others: Whether columns that were not learnt may come too.
        needs_all: Whether columns without numbers have to come.

    Raises:
        ValueError: If a column is lacking, or is one too many, or is text where it was numbers or the reverse.
    """
    for name in columns.names if needs_all else columns.numbers:
        if name not in inputs:
            raise ValueError(f"The Cleaner has learnt a column {name!r}, and it is lacking. It got: {listed(inputs)}.")
    for name, value in inputs.items():
        if name in columns.numbers:
            _check_numbers(value, f"Column {name!r}")
        elif name in columns.words:
            if tf.as_dtype(value.dtype) != tf.string:
                found = tf.as_dtype(value.dtype).name
                raise ValueError(f"Column {name!r} held text when the Cleaner learnt it. Received: {found}.")
        elif name not in columns.others and not may_have_others:
            raise ValueError(
                f"The Cleaner has learnt no column {name!r}. It has: {listed(columns.names)}. Name the columns that "
                "are cleaned with `columns` to let all others pass."
            )
    form(inputs, columns.numbers)


def _check_numbers(value: Any, what: str) -> None:
    dtype = tf.as_dtype(value.dtype)
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise ValueError(f"{what} must be real numbers. Received: {dtype.name}.")


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:8]) + (f" and {len(quoted) - 8} more" if len(quoted) > 8 else "")
