"""Which rows of the data set the rows of a batch are, found by their contents."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np

from nanguard.guard import source

_MOST_BYTES = 2 << 30
_MOST_STARTS = 1000


def rows(batch: Sequence[np.ndarray], culprits: Sequence[int], sources: Sequence[Any]) -> list[int] | None:
    """Finds rows of a batch in what training was given.

    Args:
        batch: The tensors of the batch, the features first.
        culprits: Rows of the batch to find.
        sources: Arguments of `fit`, if training ran in it.

    Returns:
        The row numbers in the data set, in the order of `culprits`; None where a row cannot be told for certain.
    """
    given = [array for thing in sources for array in _arrays(thing)]
    if any(_row_shape(array) == _row_shape(entry) for array in given for entry in batch[:1]):
        return _search(batch, culprits, given)
    # The batch itself stands in the frames as well, and is not the data set.
    size = len(batch[0]) if batch else 0
    return _search(batch, culprits, [array for array in _arrays_of_frames(sys._getframe(1)) if len(array) > size])


def _search(batch: Sequence[np.ndarray], culprits: Sequence[int], candidates: list[np.ndarray]) -> list[int] | None:
    for entry in batch:
        size = entry.shape[0]
        fitting = sorted(
            (array for array in candidates if array.shape[0] >= size and _row_shape(array) == _row_shape(entry)),
            key=len,
        )
        for array in fitting:
            found = [_find(array, entry[row]) for row in culprits]
            start = _start(array, entry, culprits[0], found[0])
            if start is not None:
                return [start + row for row in culprits]
            if all(len(places) == 1 for places in found):
                return [int(places[0]) for places in found]
            if all(len(places) >= 1 for places in found):
                refined = _refine(batch, culprits, candidates, found, len(array))
                if refined is not None:
                    return refined
    return None


def _start(array: np.ndarray, entry: np.ndarray, row: int, places: np.ndarray) -> int | None:
    """Where the whole batch stands in one piece in the data set; None if nowhere, or in several places."""
    size = len(entry)
    starts = [
        int(place) - row
        for place in places[:_MOST_STARTS]
        if 0 <= place - row <= len(array) - size and _are_equal(array[place - row : place - row + size], entry)
    ]
    return starts[0] if len(starts) == 1 else None


def _are_equal(part: np.ndarray, entry: np.ndarray) -> bool:
    flat = part.reshape(len(part), -1).astype(entry.dtype, copy=False)
    return np.array_equal(flat, entry.reshape(len(entry), -1), equal_nan=entry.dtype.kind == "f")


def _refine(
    batch: Sequence[np.ndarray],
    culprits: Sequence[int],
    candidates: list[np.ndarray],
    found: list[np.ndarray],
    length: int,
) -> list[int] | None:
    """Tells equal rows apart by the other tensors of the batch, such as the labels."""
    for entry in batch[1:]:
        for array in candidates:
            if len(array) != length or _row_shape(array) != _row_shape(entry):
                continue
            found = [
                np.intersect1d(places, _find(array, entry[row])) for row, places in zip(culprits, found, strict=True)
            ]
    return [int(places[0]) for places in found] if all(len(places) == 1 for places in found) else None


def _row_shape(array: np.ndarray) -> tuple[int, ...]:
    shape = array.shape[1:]
    return () if shape == (1,) else shape


def _find(array: np.ndarray, row: np.ndarray) -> np.ndarray:
    flat = array.reshape(len(array), -1)
    wanted = row.reshape(-1)
    if flat.dtype.kind not in "fiub" or wanted.dtype.kind not in "fiub":
        return np.array([], int)
    places = np.arange(len(flat))
    for column in range(flat.shape[1]):
        values = flat[places, column].astype(wanted.dtype, copy=False)
        same = values == wanted[column]
        if wanted.dtype.kind == "f" and np.isnan(wanted[column]):
            same = np.isnan(values)
        places = places[same]
        if not len(places):
            break
    return places


def _arrays(thing: Any, depth: int = 0) -> Iterator[np.ndarray]:
    if depth > 4:
        return
    if isinstance(thing, np.ndarray):
        if thing.ndim and thing.nbytes < _MOST_BYTES:
            yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from _arrays(value, depth + 1)
    elif isinstance(thing, (list, tuple)):
        for value in thing[:64]:
            yield from _arrays(value, depth + 1)
    elif type(thing).__module__.split(".")[0] in ("pandas", "polars") or hasattr(thing, "_numpy"):
        try:
            array = np.asarray(thing)
        except Exception:  # a frame of another library that will not be an array
            return
        if array.dtype == object:
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError):
                return
        if array.ndim and array.nbytes < _MOST_BYTES:
            yield array
    else:
        yield from _arrays_of_dataset(thing, depth)


def _arrays_of_dataset(thing: Any, depth: int) -> Iterator[np.ndarray]:
    """The arrays that a `tf.data` pipeline was made of."""
    tensors = getattr(thing, "_tensors", None)
    if tensors is not None and type(thing).__name__ in ("_TensorSliceDataset", "TensorSliceDataset"):
        yield from _arrays([tensor.numpy() for tensor in tensors], depth + 1)
    parent = getattr(thing, "_input_dataset", None)
    if parent is not None:
        yield from _arrays(parent, depth)
    elif hasattr(thing, "_datasets") or hasattr(thing, "_structure_datasets"):
        return
    dataset = getattr(thing, "_dataset", None)
    if dataset is not None and dataset is not thing:
        yield from _arrays(dataset, depth + 1)


def _arrays_of_frames(frame: FrameType | None) -> Iterator[np.ndarray]:
    seen: set[int] = set()
    while frame is not None:
        if source.is_users(frame.f_code.co_filename):
            for values in (frame.f_locals, frame.f_globals):
                for value in list(values.values()):
                    if id(value) not in seen:
                        seen.add(id(value))
                        yield from _arrays(value, 2)
        frame = frame.f_back
