"""TensorFlow's and Keras's data sets, and batches of any other loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nanguard.clean.sources._chunks import Chunks, ChunkSource, chunked
from nanguard.clean.sources._messages import reason
from nanguard.clean.sources._needs import need
from nanguard.clean.sources._source import limited
from nanguard.errors import UsageError


def is_dataset(data: Any) -> bool:
    """Whether it is a `tf.data.Dataset`; asks so without importing TensorFlow."""
    return any(_is_of(kind, "tensorflow", "DatasetV2") for kind in type(data).__mro__)


def is_pydataset(data: Any) -> bool:
    """Whether it is a `keras.utils.PyDataset`."""
    return any(_is_of(kind, "keras", "PyDataset") for kind in type(data).__mro__)


def _is_of(kind: type, library: str, name: str) -> bool:
    return kind.__name__ == name and kind.__module__.partition(".")[0] == library


def dataset(data: Any, **options: Any) -> ChunkSource:
    """The source of a `tf.data.Dataset`, batched or not.

    Raises:
        UsageError: If it repeats without end, or its elements are no rows of one length.
    """
    tf = need("tensorflow")
    name = "tf.data.Dataset"
    num_rows = int(data.cardinality())
    if num_rows == tf.data.INFINITE_CARDINALITY:
        raise UsageError(f"{name} repeats without end. Give it as it is before repeat().")
    spec = data.element_spec
    for each in tf.nest.flatten(spec):
        if not isinstance(each, tf.TensorSpec):
            kind = type(each).__name__.removesuffix("Spec")
            raise UsageError(f"{name} has a {kind}, whose rows differ in length. Give dense tensors.")
    is_batched = _is_batched(spec)
    # A dimension that is not known until it is read counts as 1.
    shapes = [each.shape[1:] if is_batched else each.shape for each in tf.nest.flatten(spec)]
    width = sum(math.prod(size or 1 for size in shape) for shape in shapes if shape.rank is not None)
    batch_rows = limited(options["batch_rows"], width)
    # Cut to the size of a block by TensorFlow: a NumPy array for each batch of 32 takes far longer.
    batched = data.rebatch(batch_rows) if is_batched else data.batch(batch_rows)

    def chunks() -> Iterator[Any]:
        iterator = iter(batched)
        read = 0
        while True:
            try:
                element = next(iterator)
            except StopIteration:
                return
            except tf.errors.OpError as error:
                raise UsageError(f"{name} fails after row {read}: {reason(error)}") from error
            read += int(tf.shape(tf.nest.flatten(element)[0])[0])
            yield tf.nest.map_structure(lambda tensor: tensor.numpy(), element)

    made = chunked(name, Chunks(chunks), **options)
    made.num_rows = num_rows if num_rows >= 0 and not is_batched else None
    return made


def _is_batched(spec: Any) -> bool:
    """Whether an element is several rows: a matrix, or columns of vectors.

    One vector of a length that is known is a row; of a length that is not, the column of a batch.
    """
    features = spec[0] if isinstance(spec, tuple) else spec
    if isinstance(features, Mapping):
        ranks = [each.shape.rank for each in _leaves(features)]
        return all(rank is None or rank >= 1 for rank in ranks)
    rank = features.shape.rank
    if rank == 1:
        return features.shape[0] is None
    return rank is None or rank > 1


def _leaves(features: Mapping[str, Any]) -> Iterator[Any]:
    for each in features.values():
        yield from _leaves(each) if isinstance(each, Mapping) else (each,)


def pydataset(data: Any, **options: Any) -> ChunkSource:
    """The source of a `keras.utils.PyDataset`, read batch by batch in this process."""
    name = f"keras.utils.PyDataset ({type(data).__name__})"
    num_batches = data.num_batches
    if num_batches is None:
        raise UsageError(f"{name} has no end: its `__len__` is missing or `num_batches` is None.")

    def chunks() -> Iterator[Any]:
        return (_plain(data[place]) for place in range(num_batches))

    return chunked(name, Chunks(chunks), **options)


def iterable(data: Any, **options: Any) -> ChunkSource:
    """The source of batches: of an iterator, which is read once, of what can be iterated again, or of a function."""
    name = f"{type(data).__name__} of batches"
    is_once = isinstance(data, Iterator)
    make: Callable[[], Iterable[Any]] = data if callable(data) and not isinstance(data, Iterable) else lambda: data
    made = chunked(name, Chunks(lambda: (_plain(batch) for batch in make())), **options)
    made.is_replayable = not is_once
    return made


def is_of_batches(data: Sequence[Any]) -> bool:
    """Whether a list holds batches, and not rows."""
    first = data[0]
    if isinstance(first, tuple):
        return len(data) > 0 and np.ndim(first[0]) > 0 and not np.isscalar(first[0])
    if isinstance(first, Mapping):
        return any(np.ndim(values) > 0 for values in first.values())
    return getattr(first, "ndim", 0) > 1 or hasattr(first, "__arrow_c_stream__")


def _plain(batch: Any) -> Any:
    """A batch with tensors as NumPy arrays, and lists of parts, as loaders of other libraries give them, as tuples."""
    if isinstance(batch, list) and batch and all(getattr(part, "ndim", 0) > 0 for part in batch):
        batch = tuple(batch)
    if isinstance(batch, tuple) and not hasattr(batch, "_fields"):
        return tuple(_plain(part) for part in batch)
    if isinstance(batch, Mapping):
        return {name: _plain(part) for name, part in batch.items()}
    library = type(batch).__module__.partition(".")[0]
    return np.asarray(batch) if library in ("tensorflow", "torch", "jax", "jaxlib") else batch
