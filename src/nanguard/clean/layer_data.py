"""What the layer learns from: arrays, tensors, dicts of columns, data sets and frames, gone through once."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.accumulator import Accumulator
from nanguard.clean.block import Schema
from nanguard.clean.categories import Categories
from nanguard.clean.options import Options
from nanguard.clean.sentinels import without
from nanguard.clean.survey import Survey, survey
from nanguard.errors import UsageError

Floats = NDArray[np.float64]

# Small batches are joined: a histogram takes a block in as fast as a row.
_BLOCK_BYTES = 1 << 25
_BLOCK_ROWS = 65_536
# Rows that come one by one are pulled from a data set in batches of this size.
_PULLED_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some rows as NumPy holds them.

    Attributes:
        names: The columns of numbers.
        numbers: Shape (rows, columns), float64.
        words: The columns of text: for each its values, text or None.
    """

    names: tuple[str, ...]
    numbers: Floats
    words: dict[str, list[str | None]]


def learn(data: Any, options: Options, *, columns: Sequence[str] | None, steps: int | None) -> Survey:
    """Goes once through data.

    Args:
        data: As `Cleaner.adapt` takes it.
        options: What stands for a missing cell, and what is to be learnt.
        columns: The names of a matrix's columns; of named columns those to learn of.
        steps: How many batches to take.

    Raises:
        UsageError: If there is no row, or a column is not what it was in the first batch.
        ValueError: If `data` or `steps` is of no use.
    """
    with_products = options.impute == "gaussian" and options.covariance == "pairwise"
    data = _features(data)
    if is_frame(data):
        if steps is not None:
            raise ValueError(f"`steps` counts the batches of a data set. Received: steps={steps} with {_kind(data)}.")
        from nanguard.clean import sources

        source = sources.open(data, columns=columns)
        return survey(source.schema, source.blocks(), options, with_products=with_products)
    found: Survey | None = None
    num_rows = 0
    for batch in _joined(batch_of(rows, columns, number) for number, rows in enumerate(_batches(data, steps))):
        if found is None:
            found = _pilot(batch, options, with_products=with_products)
        _update(found, batch, num_rows, options)
        num_rows += len(batch.numbers)
    if found is None:
        raise UsageError(f"There is no row to learn from in the {_kind(data)}.")
    return found


def is_frame(data: Any) -> bool:
    """Whether data is a frame or the path of files, which need the readers of tables."""
    return (
        isinstance(data, str) or hasattr(data, "__fspath__") or hasattr(data, "__arrow_c_stream__") or _is_narwhal(data)
    )


def _is_narwhal(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] in ("pandas", "polars", "pyarrow", "narwhals")


# -- batches


def _batches(data: Any, steps: int | None) -> Iterator[Any]:
    """The features of each batch."""
    if _is_whole(data):
        if steps is not None:
            raise ValueError(
                f"`steps` counts the batches of a data set. Received: steps={steps} with one {_kind(data)}."
            )
        return iter([data])
    if steps is not None and steps < 1:
        raise ValueError(f"`steps` must be at least 1. Received: steps={steps}.")
    return itertools.islice((_features(batch) for batch in _iterated(data, is_limited=steps is not None)), steps)


def _is_whole(data: Any) -> bool:
    if isinstance(data, Mapping) or hasattr(data, "__array__"):
        return True
    # A list of lists of numbers is a table; a list of arrays is one of batches.
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, list | tuple) and bool(first) and np.ndim(first[0]) == 0


def _iterated(data: Any, *, is_limited: bool) -> Iterable[Any]:
    tf, keras = sys.modules.get("tensorflow"), sys.modules.get("keras")
    if tf is not None and isinstance(data, tf.data.Dataset):
        if not is_limited and data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("The data set never ends. Say with `steps` how many batches to take.")
        spec = tf.nest.flatten(_features(data.element_spec))
        is_row = all(part.shape.rank == (0 if isinstance(_features(data.element_spec), dict) else 1) for part in spec)
        return data.batch(_PULLED_ROWS) if is_row else data  # type: ignore[no-any-return]
    if keras is not None and isinstance(data, keras.utils.PyDataset):
        length = data.num_batches
        if length is None and not is_limited:
            raise ValueError("The data set never ends. Say with `steps` how many batches to take.")
        return (data[place] for place in (itertools.count() if length is None else range(length)))
    if hasattr(data, "__iter__"):
        return data  # type: ignore[no-any-return]
    raise ValueError(
        f"`data` must be an array, a tensor, a dict of columns, a frame or a data set of batches. "
        f"Received: {_kind(data)}."
    )


def _features(batch: Any) -> Any:
    """Of (features, labels) or these with weights the features."""
    return batch[0] if isinstance(batch, tuple) else batch


def batch_of(rows: Any, columns: Sequence[str] | None, number: int = 0) -> Batch:
    """Rows as NumPy holds them.

    Args:
        rows: An array with the columns in its last axis, or a dict of columns.
        columns: The names of an array's columns; of a dict those to take.
        number: Which batch it is, for messages.
    """
    if not isinstance(rows, Mapping):
        return _of_matrix(np.asarray(rows), columns, number)
    chosen = tuple(rows) if columns is None else tuple(columns)
    for name in chosen:
        if name not in rows:
            raise UsageError(f"Batch {number} has no column {name!r}. It has: {', '.join(map(repr, rows))}.")
    arrays = {name: np.asarray(rows[name]).reshape(-1) for name in chosen}
    if not arrays:
        raise UsageError(f"Batch {number} has no column.")
    length = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        if len(array) != length:
            raise UsageError(f"Batch {number} has {length} values in {chosen[0]!r} and {len(array)} in {name!r}.")
    words = {name: [word_of(value) for value in array.tolist()] for name, array in arrays.items() if _is_text(array)}
    names = tuple(name for name in chosen if name not in words)
    numbers = np.empty((length, len(names)), order="F")
    for place, name in enumerate(names):
        numbers[:, place] = _floats(arrays[name], f"Column {name!r}", number)
    return Batch(names, numbers, words)


def _of_matrix(array: NDArray[Any], columns: Sequence[str] | None, number: int) -> Batch:
    if array.ndim < 2:
        raise UsageError(
            f"Rows are learnt from, with the columns in the last axis. Received: shape {array.shape}. "
            "For one column give x[:, None], for one row x[None]."
        )
    size = array.shape[-1]
    names = tuple(map(str, range(size))) if columns is None else tuple(columns)
    if len(names) != size:
        raise UsageError(f"`columns` names {len(names)} columns, and batch {number} has the shape {array.shape}.")
    return Batch(names, _floats(array, "The array", number).reshape(-1, size), {})


def _floats(array: NDArray[Any], what: str, number: int) -> Floats:
    try:
        if array.dtype.kind in "mMc":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise UsageError(
            f"{what} of batch {number} is no numbers but {array.dtype}. Leave it out with `columns`."
        ) from None


def _is_text(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "O":
        return any(isinstance(value, str | bytes) for value in array)
    return array.dtype.kind in "SUT"


def word_of(value: Any) -> str | None:
    """A value of a column of text; None for a missing one, which TensorFlow writes as empty text."""
    if isinstance(value, bytes):
        # A text that is not UTF-8 comes back as the bytes that it was.
        value = value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) and value else None


def written(word: str) -> bytes:
    """A text as TensorFlow holds it."""
    return word.encode("utf-8", "surrogateescape")


def _joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches joined to blocks, the columns of each held against those of the first."""
    held: list[Batch] = []
    num_rows = 0
    for number, batch in enumerate(batches):
        first = held[0] if held else batch
        if set(batch.names) != set(first.names) or set(batch.words) != set(first.words):
            raise UsageError(_differing(first, batch, number))
        if batch.names != first.names:
            places = [batch.names.index(name) for name in first.names]
            batch = dataclasses.replace(batch, names=first.names, numbers=batch.numbers[:, places])
        held.append(batch)
        num_rows += len(batch.numbers)
        if num_rows >= min(_BLOCK_ROWS, _BLOCK_BYTES // (8 * max(len(first.names), 1))):
            yield _join(held)
            # The columns of the first stay to be compared with.
            held, num_rows = [Batch(first.names, first.numbers[:0], {name: [] for name in first.words})], 0
    if num_rows:
        yield _join(held)


def _join(held: list[Batch]) -> Batch:
    numbers = np.asfortranarray(np.concatenate([batch.numbers for batch in held]))
    words = {name: [word for batch in held for word in batch.words[name]] for name in held[0].words}
    return Batch(held[0].names, numbers, words)


def _differing(first: Batch, batch: Batch, number: int) -> str:
    for kind, other, before in (("numbers", first.words, first.names), ("text", first.names, first.words)):
        now = batch.names if kind == "numbers" else batch.words
        for name in now:
            if name in other:
                return f"Column {name!r} holds {kind} in batch {number}, and did not before. Give it one dtype."
            if name not in before:
                return f"Batch {number} has a column {name!r} that those before lack."
    lacking = (set(first.names) | set(first.words)) - set(batch.names) - set(batch.words)
    return f"Batch {number} lacks the column {min(lacking)!r} that those before have."


# -- learning


def _pilot(batch: Batch, options: Options, *, with_products: bool) -> Survey:
    schema = Schema((*batch.names, *batch.words), batch.names, tuple(batch.words))
    rows = without(batch.numbers, batch.names, options)
    return Survey(schema, Accumulator.pilot(batch.names, rows, with_products=with_products), options)


def _update(found: Survey, batch: Batch, first_row: int, options: Options) -> None:
    found.numbers.update(without(batch.numbers, batch.names, options), first_row=first_row)
    for name, words in batch.words.items():
        seen = Categories()
        seen.num_rows, seen.num_nulls = len(words), words.count(None)
        seen.counts = dict(collections.Counter(word for word in words if word is not None))
        found.categories[name].merge(seen)


def mode_of(categories: Categories) -> str | None:
    """The most frequent text of a column; an empty one, by which TensorFlow writes a missing text, is none."""
    return next((str(value) for value, _ in categories.common(2) if value != ""), None)


def _kind(data: Any) -> str:
    return type(data).__name__
