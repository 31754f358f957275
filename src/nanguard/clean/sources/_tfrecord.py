"""TFRecord files of `tf.train.Example`."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.sources import _arrow
from nanguard.clean.sources._arrays import as_text
from nanguard.clean.sources._messages import reason
from nanguard.clean.sources._needs import need
from nanguard.clean.sources._source import ArrowSource
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_PILOT = 1024
_BATCH_BYTES = 1 << 25


@dataclasses.dataclass(frozen=True)
class Feature:
    """What a feature of the examples is.

    Attributes:
        name: Its name.
        kind: The Arrow type of one value.
        width: How many values each example has: 1, or more in a vector, which becomes as many columns; None if that
            varies.
    """

    name: str
    kind: pa.DataType
    width: int | None

    @property
    def fields(self) -> list[pa.Field]:
        """Its columns."""
        pa = need("pyarrow")
        if self.width is None:
            return [pa.field(self.name, pa.list_(self.kind))]
        if self.width == 1:
            return [pa.field(self.name, self.kind)]
        return [
            pa.field(
                f"{self.name}_{place}",
                self.kind,
                metadata={_arrow.ARRAY: self.name.encode(), _arrow.PLACE: str(place).encode()},
            )
            for place in range(self.width)
        ]


class TfrecordSource(ArrowSource):
    """A TFRecord file. The features and their lengths are taken from its first 1024 examples.

    A feature that an example lacks is a missing cell. A feature that none of the first examples has is not seen.

    Args:
        path: The file, which may be packed: `.gz`.
        columns: Which columns to read, or all.
        batch_rows: How many rows a block has at most.
    """

    def __init__(self, path: str, *, columns: Sequence[str] | None, batch_rows: int) -> None:
        pa = need("pyarrow")
        self.name = path
        features, row_bytes = self._look()
        names = [field.name for feature in features for field in feature.fields]
        _arrow.check_names(names, path)
        chosen = _arrow.chosen_names(names, columns, path)
        kept = set(chosen)
        self._features = [each for each in features if any(field.name in kept for field in each.fields)]
        fields = {field.name: field for feature in self._features for field in feature.fields}
        super().__init__(path, pa.schema([fields[name] for name in chosen]), batch_rows=batch_rows, file=path)
        self.batch_rows = max(1, min(self.batch_rows, _BATCH_BYTES // max(row_bytes, 1)))

    def _records(self, size: int) -> Iterator[Any]:
        """Serialized examples, some at a time."""
        tf = need("tensorflow")
        packing = "GZIP" if self.name.endswith(".gz") else ""
        # A device is never held while somebody else's code runs: scopes must end in the order in which they began.
        with tf.device("CPU"):
            batches = iter(tf.data.TFRecordDataset(self.name, packing).batch(size))
        while True:
            with tf.device("CPU"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _look(self) -> tuple[list[Feature], int]:
        tf, pa = need("tensorflow"), need("pyarrow")
        found: dict[str, list[tuple[str, int]]] = {}
        texts: dict[str, bool] = {}
        num_bytes = num_rows = 0
        records = itertools.islice(self._guarded(1, 0), _PILOT)
        for row, record in enumerate(itertools.chain.from_iterable(batch.numpy() for batch in records)):
            try:
                example = tf.train.Example.FromString(record)
            except Exception as error:  # protobuf's own, whose module differs from version to version
                raise UsageError(f"{self.name}, row {row}: the record is no tf.train.Example.") from error
            for name, feature in example.features.feature.items():
                kind = feature.WhichOneof("kind")
                if kind is None:
                    continue
                values = getattr(feature, kind).value
                found.setdefault(name, []).append((kind, len(values)))
                if kind == "bytes_list":
                    texts[name] = texts.get(name, True) and all(map(_is_text, values))
            num_bytes += len(record)
            num_rows += 1
        if not num_rows:
            raise UsageError(f"{self.name} has no rows.")
        if not found:
            raise UsageError(f"{self.name} holds no tf.train.Example with features.")
        kinds = {"float_list": pa.float32(), "int64_list": pa.int64(), "bytes_list": pa.binary()}
        features = []
        for name in sorted(found, key=_natural):
            if len({kind for kind, _ in found[name]}) > 1:
                raise UsageError(f"{self.name}: the feature {name!r} has values of two types.")
            widths = {width for _, width in found[name] if width}
            kind = pa.string() if texts.get(name) else kinds[found[name][0][0]]
            features.append(Feature(name, kind, widths.pop() if len(widths) == 1 else None if widths else 1))
        return features, num_bytes // num_rows

    def _guarded(self, size: int, first_row: int) -> Iterator[Any]:
        """Records, and one line for a file that is damaged."""
        tf = need("tensorflow")
        num_rows = first_row
        try:
            for batch in self._records(size):
                yield batch
                num_rows += int(tf.size(batch))
        except tf.errors.OpError as error:
            if size > 1:  # some rows of the batch in which it broke may be whole
                num_rows += sum(1 for _ in itertools.takewhile(lambda batch: batch is not None, self._whole(num_rows)))
            raise UsageError(f"{self.name} is damaged or cut off after row {num_rows}: {reason(error)}") from error

    def _whole(self, first_row: int) -> Iterator[Any]:
        tf = need("tensorflow")
        try:
            yield from itertools.islice(self._records(1), first_row, None)
        except tf.errors.OpError:
            yield None

    def _batches(self) -> Iterator[pa.RecordBatch]:
        tf, pa = need("tensorflow"), need("pyarrow")
        spec = {
            feature.name: tf.io.RaggedFeature(_tf_dtype(feature.kind), row_splits_dtype=tf.int64)
            for feature in self._features
        }
        num_rows = 0
        for records in self._guarded(self.batch_rows, 0):
            try:
                parsed = tf.io.parse_example(records, spec)
            except (tf.errors.OpError, UnicodeDecodeError) as error:  # its message may hold the record's bytes
                raise self._misfit(error, records, num_rows) from error
            columns: dict[str, Any] = {}
            for feature in self._features:
                found = parsed[feature.name]
                columns |= self._columns(feature, found.values.numpy(), found.row_splits.numpy(), num_rows)
            yield pa.RecordBatch.from_arrays(
                [columns[name] for name in self.arrow_schema.names], schema=self.arrow_schema
            )
            num_rows += len(records)

    def _columns(
        self, feature: Feature, values: NDArray[Any], splits: NDArray[np.int64], first_row: int
    ) -> dict[str, pa.Array]:
        pa = need("pyarrow")
        if feature.width is None:
            flat = self._array(feature, values, feature.kind, first_row, splits)
            return {feature.name: pa.ListArray.from_arrays(pa.array(splits, pa.int32()), flat)}
        lengths = np.diff(splits)
        is_there = lengths > 0
        wrong = is_there & (lengths != feature.width)
        if wrong.any():
            row = int(wrong.argmax())
            raise UsageError(
                f"{self.name}, row {first_row + row}, feature {feature.name!r} has {lengths[row]} values, and "
                f"{feature.width} in the rows before it."
            )
        starts = splits[:-1]
        made = {}
        for place, field in enumerate(feature.fields):
            if is_there.all():
                column, mask = values[place :: feature.width], None
            else:
                mask = ~is_there
                column = np.zeros(len(lengths), values.dtype)
                column[is_there] = values[starts[is_there] + place]
                if values.dtype.kind == "O":
                    column[mask] = None
            made[field.name] = self._array(feature, column, field.type, first_row, None, mask)
        return made

    def _array(
        self,
        feature: Feature,
        values: NDArray[Any],
        kind: pa.DataType,
        first_row: int,
        splits: NDArray[np.int64] | None,
        mask: NDArray[np.bool_] | None = None,
    ) -> pa.Array:
        pa = need("pyarrow")
        if not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
            return pa.array(values, kind, mask=mask)
        array = pa.array(list(values), pa.binary())
        if pa.types.is_string(kind):
            text = as_text(array)
            if not pa.types.is_string(text.type):
                place = next(place for place, value in enumerate(values) if value is not None and not _is_text(value))
                row = place if splits is None else int(np.searchsorted(splits, place, "right")) - 1
                raise UsageError(
                    f"{self.name}, row {first_row + row}, feature {feature.name!r} holds bytes that are no text in "
                    "UTF-8, as those before it are."
                )
            return text
        return array

    def _misfit(self, error: Exception, records: Any, first_row: int) -> UsageError:
        """Says which of some records TensorFlow did not take, and why."""
        tf = need("tensorflow")
        expected = {feature.name: feature for feature in self._features}
        for row, record in enumerate(records.numpy(), first_row):
            try:
                example = tf.train.Example.FromString(record)
            except Exception:
                return UsageError(f"{self.name}, row {row}: the record is no tf.train.Example.")
            for name, feature in example.features.feature.items():
                kind = feature.WhichOneof("kind")
                if kind is not None and name in expected and kind != f"{_tf_list(expected[name].kind)}_list":
                    before = f"a {_tf_list(expected[name].kind)}_list in the rows before it"
                    return UsageError(f"{self.name}, row {row}, feature {name!r} is a {kind}, and {before}.")
        return UsageError(f"{self.name} cannot be read after row {first_row}: {reason(error)}")


def _tf_list(kind: pa.DataType) -> str:
    tf = need("tensorflow")
    return {tf.float32: "float", tf.int64: "int64", tf.string: "bytes"}[_tf_dtype(kind)]


def _tf_dtype(kind: pa.DataType) -> Any:
    tf, pa = need("tensorflow"), need("pyarrow")
    if pa.types.is_floating(kind):
        return tf.float32
    return tf.int64 if pa.types.is_integer(kind) else tf.string


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which "10" comes after "9"."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
