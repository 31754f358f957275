"""CSV files, plain or packed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nanguard.clean.sources import _arrow
from nanguard.clean.sources._messages import reason, shown
from nanguard.clean.sources._needs import need
from nanguard.clean.sources._source import ArrowSource
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_BYTES = 1 << 20
_CONVERSION = re.compile(r"In CSV column #(\d+): Row #(\d+): CSV conversion error to (.*?): (.*)", re.DOTALL)
_SUSPECTS = {";": ";", "\t": "tab", "|": "|"}


@dataclasses.dataclass(frozen=True)
class CsvOptions:
    """How a CSV file is read.

    Attributes:
        dtypes: The types of some columns, by name, such as `string` or `float64`. Those of the others are found out.
        delimiter: What stands between two cells, or None: a tab in `.tsv`, else a comma.
        encoding: How characters are stored.
    """

    dtypes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    delimiter: str | None = None
    encoding: str = "utf-8"


class CsvSource(ArrowSource):
    """A CSV file with a line of names, read in small pieces.

    The types of its columns are taken from the first MiB. A column of integers in which a fraction turns up later,
    or one that was empty so far, is read as floats from there on, and from the start the next time. Any other value
    that does not fit is an error.

    Args:
        path: The file.
        options: How to read it.
        columns: Which columns to read, or all.
        batch_rows: How many rows a block has at most.
    """

    def __init__(self, path: str, options: CsvOptions, *, columns: Sequence[str] | None, batch_rows: int) -> None:
        self.name, self._options = path, options
        given = {"tab": "\t", "\\t": "\t"}.get(options.delimiter or "", options.delimiter)
        self.delimiter = given or ("\t" if re.search(r"\.tsv(\.\w+)?$", path) else ",")
        if len(self.delimiter) != 1:
            raise ValueError(f"`delimiter` must be one character. Received: delimiter={options.delimiter!r}.")
        self._check_start()
        self._columns = None if columns is None else list(columns)
        self._types = {name: _type_of(name, word) for name, word in options.dtypes.items()}
        self._bad_row: Any = None
        self._has_one_column = False
        schema = self._first_schema()
        super().__init__(path, schema, batch_rows=batch_rows, file=path)
        self._types = dict(zip(schema.names, schema.types, strict=True))

    def _first_schema(self) -> pa.Schema:
        pa = need("pyarrow")
        names = self._header_names = self._header()
        _arrow.check_names(names, self.name)
        self._check_delimiter(names)
        self._has_one_column = len(names) == 1
        _arrow.chosen_names(names, [*(self._columns or ()), *self._types], self.name)
        try:
            with self._reader() as reader:
                schema = reader.schema
        except self._refusals() as error:
            raise self._explained(error) from error
        schema = pa.schema([self._settled(field) for field in schema])
        return self._looked_further(schema)

    def _header(self) -> list[str]:
        """The names, all of them, in the file's order."""
        columns, types = self._columns, self._types
        self._columns, self._types = None, {}
        try:
            with self._reader() as reader:
                return list(reader.schema.names)
        except self._refusals() as error:
            raise self._explained(error) from error
        finally:
            self._columns, self._types = columns, types

    def _settled(self, field: pa.Field) -> pa.Field:
        pa = need("pyarrow")
        if pa.types.is_binary(field.type) and field.name not in self._types:  # what text that is no UTF-8 is taken for
            return field.with_type(pa.string())
        return field

    def _looked_further(self, schema: pa.Schema) -> pa.Schema:
        """Gives columns that are empty at first the type of what they hold later."""
        pa = need("pyarrow")
        empty = [field.name for field in schema if pa.types.is_null(field.type)]
        kept = self._columns, self._types
        self._columns, self._types = list(empty), dict.fromkeys(empty, pa.string())
        try:
            with self._reader() as reader:
                while empty:
                    batch = reader.read_next_batch()
                    for name in [name for name in empty if batch.column(name).null_count < batch.num_rows]:
                        kind = _inferred(batch.column(name).drop_null())
                        schema = schema.set(schema.get_field_index(name), pa.field(name, kind))
                        empty.remove(name)
        except StopIteration:
            pass
        except self._refusals():
            pass  # what cannot be read is met again, and told with its row, when the rows are read
        finally:
            self._columns, self._types = kept
        return schema

    def _reader(self) -> Any:
        pa, csv = need("pyarrow"), need("pyarrow.csv")
        try:
            stream = pa.input_stream(self.name, compression="detect", buffer_size=_BLOCK_BYTES)
            return csv.open_csv(
                stream,
                read_options=csv.ReadOptions(
                    use_threads=False, block_size=_BLOCK_BYTES, encoding=self._options.encoding
                ),
                parse_options=csv.ParseOptions(
                    delimiter=self.delimiter,
                    newlines_in_values=True,
                    # In a file of one column an empty line is a missing cell.
                    ignore_empty_lines=not self._has_one_column,
                    invalid_row_handler=self._on_bad_row,
                ),
                convert_options=csv.ConvertOptions(
                    column_types=self._types,
                    include_columns=self._columns,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except OSError as error:
            raise UsageError(f"{self.name} cannot be read: {reason(error)}") from error
        except LookupError as error:
            known = "Such are utf-8, latin-1 and cp1252."
            raise UsageError(f"{self._options.encoding!r} is no encoding. {known}") from error

    @staticmethod
    def _refusals() -> tuple[type[Exception], ...]:
        pa = need("pyarrow")
        return (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeError)

    def _on_bad_row(self, row: Any) -> str:
        self._bad_row = row
        return "error"

    def _batches(self) -> Iterator[pa.RecordBatch]:
        num_rows = 0
        last = None
        while True:
            try:
                for last in self._from(num_rows):
                    yield last
                    num_rows += last.num_rows
                break
            except self._refusals() as error:
                if not self._widened(error):
                    raise self._explained(error, num_rows) from error
            except OSError as error:
                raise UsageError(f"{self.name} is damaged after row {num_rows}: {reason(error)}") from error
        if last is not None and self._is_open(last):
            raise self._unclosed(num_rows - 1)

    def _is_open(self, last: pa.RecordBatch) -> bool:
        """Whether the last cell is in quotation marks that are not closed, which takes in all that follows."""
        pa = need("pyarrow")
        name = self._header_names[-1]
        if name not in self.schema.categories:
            return False
        cell = last.column(name)[-1].as_py()
        if cell is None or "\n" not in cell:
            return False
        end = b""
        with pa.input_stream(self.name, compression="detect") as stream:
            while part := stream.read(_BLOCK_BYTES):
                end = (end + part)[-64:]
        return not end.decode(self._options.encoding, errors="ignore").rstrip("\r\n").endswith('"')

    def _unclosed(self, row: int) -> UsageError:
        return UsageError(f"{self.name}, row {row}: a quotation mark that is not closed takes in all that follows.")

    def _from(self, first_row: int) -> Iterator[pa.RecordBatch]:
        done = 0
        with self._reader() as reader:
            for batch in reader:
                skipped = min(max(first_row - done, 0), batch.num_rows)
                done += batch.num_rows
                if skipped < batch.num_rows:
                    yield batch.slice(skipped)

    def _widened(self, error: BaseException) -> bool:
        """Makes room for a value that did not fit, if a wider type of the same kind may hold it."""
        pa = need("pyarrow")
        found = _CONVERSION.match(str(error))
        if not found:
            return False
        name = self._name_of(found)
        if name in self._options.dtypes:
            return False
        kind = _arrow.wider(self._types[name])
        if kind is None or kind == self._types[name]:
            return False
        self._types[name] = kind
        if self._misfit_stays(name, int(found[2])):
            return False
        place = self._arrow_schema.get_field_index(name)
        self._set_schema(self._arrow_schema.set(place, pa.field(name, kind)))
        return True

    def _misfit_stays(self, name: str, row: int) -> bool:
        """Whether the row that a column's old type could not hold is too much for its new one as well."""
        columns, self._columns = self._columns, [name]
        done = 1  # the line of names is row 1
        try:
            with self._reader() as reader:
                for batch in reader:
                    done += batch.num_rows
                    if done >= row:
                        return False
        except self._refusals():
            self._types[name] = self._arrow_schema.field(name).type
            return True
        finally:
            self._columns = columns
        return False

    def _name_of(self, found: re.Match[str]) -> str:
        return self._header_names[int(found[1])]

    def _explained(self, error: BaseException, num_rows: int = 0) -> UsageError:
        """The same error with file, row and column, and a way out."""
        text = reason(error)
        if "Empty CSV file" in text:
            return UsageError(f"{self.name} is empty.")
        if self._bad_row is not None:
            row, self._bad_row = self._bad_row, None
            where = "" if row.number is None else f", row {row.number - 2}"
            return UsageError(
                f"{self.name}{where} has {row.actual_columns} cells where the line of names has "
                f"{row.expected_columns}: {shown(row.text)}. A cell that holds {self.delimiter!r} or a line "
                "break has to be quoted."
            )
        if "straddling" in text:
            return UsageError(
                f"{self.name}, after row {num_rows}, has a row longer than {_BLOCK_BYTES >> 20} MiB: a quotation "
                "mark that is not closed?"
            )
        if "is not supported" in text:
            return UsageError(f"{self.name}: {text} Give another type to --dtype.")
        found = _CONVERSION.match(str(error))
        if not found:
            if isinstance(error, UnicodeError) or "UTF8" in text:
                return UsageError(f"{self.name} is not {self._options.encoding}. To read it, give its --encoding.")
            return UsageError(f"{self.name} is no CSV file that can be read: {text}")
        return self._misfit(found)

    def _misfit(self, found: re.Match[str]) -> UsageError:
        name, row = self._name_of(found), int(found[2]) - 2
        where = f"{self.name}, row {row}, column {name!r}"
        if "UTF8" in found[4]:
            return UsageError(
                f"{where}: the text is not UTF-8, as that before it is. If the whole file is in another encoding, give "
                "it, such as --encoding latin-1; if only some rows are, convert them first."
            )
        kind = _arrow.word_of(need("pyarrow").field(name, self._types[name])) if name in self._types else found[3]
        value = re.sub(r"^invalid value ", "", found[4])
        return UsageError(
            f"{where}: {shown(value.strip(chr(39)))} is no {kind}, as the values before it are. To read the "
            f"column as text, add --dtype {name}=string."
        )

    def _check_delimiter(self, names: Sequence[str]) -> None:
        if len(names) > 1:
            return
        for mark, word in _SUSPECTS.items():
            if mark in names[0] and mark != self.delimiter:
                raise UsageError(
                    f"{self.name} has one column, {shown(names[0])}: its cells seem to be parted by {word!r}. "
                    f"To read it so, add --delimiter {word!r}."
                )

    def _check_start(self) -> None:
        if not re.search(r"\.(csv|tsv|txt)$", self.name, re.IGNORECASE):
            return  # packed
        with open(self.name, "rb") as stream:
            start = stream.read(4)
        if not start:
            raise UsageError(f"{self.name} is empty.")
        is_utf16 = start[:2] in (b"\xff\xfe", b"\xfe\xff")
        if is_utf16 and self._options.encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
            raise UsageError(f"{self.name} is in UTF-16. To read it, add --encoding utf-16.")


def _inferred(texts: pa.Array) -> pa.DataType:
    """What the reader would take some cells for."""
    pa, csv = need("pyarrow"), need("pyarrow.csv")
    table = pa.table({"": texts.slice(0, 1000)})
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(include_header=True))
    options = csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)
    return csv.read_csv(pa.BufferReader(sink.getvalue()), read_options=options).schema.types[0]


def _type_of(name: str, word: Any) -> pa.DataType:
    pa = need("pyarrow")
    if not isinstance(word, str):  # a type of Arrow's
        return word
    word = {"str": "string", "text": "string", "int": "int64", "float": "float64"}.get(word, word)
    try:
        return pa.type_for_alias(word)
    except ValueError as error:
        raise UsageError(
            f"{word!r}, given for column {name!r}, is no type. Such are string, int64, float64, bool, date32 and "
            "timestamp[s]."
        ) from error
