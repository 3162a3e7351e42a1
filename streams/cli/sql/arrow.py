"""Tables that DuckDB asks for the columns that a query needs, and reads batch by batch.

THEORY OF OPERATION

1. DuckDB knows how to read a ``pyarrow.dataset.Dataset``: it calls ``scanner`` with the columns that the query needs
   and with the conditions that it wants to have evaluated while reading, and takes record batches from the result.
   :class:`Scanned` is such a data set, as those of other storage formats are: it makes these columns, and no others.
2. DuckDB leaves out columns that only a condition needs. pyarrow does not tell which ones a condition names, so each
   column whose name stands anywhere in its text is made.
3. A condition such as ``timestamp >= '2026-11-30 09:00'`` is among these conditions if it must hold for every row. A
   table that can find a time then begins there, if Arrow proves from the condition that no earlier row can meet it.
   Conditions that DuckDB keeps to itself, such as a comparison with ``now()``, which has a time zone, do not shorten
   what is read.
4. Each scan reads anew. So a query may name a table twice, and nothing but the batch at hand is in memory.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from streams.cli.sql.columns import LABELS, PORTS, RULE, Column

Scan = Callable[[Sequence[str], int | None], Iterator[Any]]
"""Yields record batches with the columns that it is given, in their order. Rows whose ``timestamp`` is earlier than the
time that it is given, in nanoseconds since the epoch, may be missing: the query does not want them."""
_NOT_BEFORE: Final = re.compile(r"timestamp (?:>=|>|==) (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6})")
_MAX_PROPOSED: Final = 64

_TYPES: Final = {
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "UBIGINT": pa.uint64(),
    "UINTEGER": pa.uint32(),
    "USMALLINT": pa.uint16(),
    "UTINYINT": pa.uint8(),
    "VARCHAR": pa.string(),
    "VARCHAR[]": pa.list_(pa.string()),
    LABELS: pa.map_(pa.string(), pa.string()),
    PORTS: pa.list_(pa.struct([("name", pa.string()), ("port", pa.uint16()), ("protocol", pa.string())])),
    RULE: pa.list_(
        pa.struct([("kind", pa.string()), ("namespace", pa.string()), ("name", pa.string()), ("rule", pa.uint32())])
    ),
}
CODED: Final = pa.dictionary(pa.int32(), pa.string())
"""A column of texts of which few are distinct, each once, with their numbers in place of the texts."""
_EPOCH: Final = datetime(1970, 1, 1)
"""Without a time zone, as a TIMESTAMP is, which means UTC."""
_MICROSECOND: Final = timedelta(microseconds=1)


def schema_of(columns: Sequence[Column], *, coded: bool = False) -> Any:
    """Return the Arrow schema of columns. ``coded``: texts are :data:`CODED`."""
    types = {**_TYPES, "VARCHAR": CODED} if coded else _TYPES
    return pa.schema([(column.name, types[column.type]) for column in columns])


class _Scanner:
    """What DuckDB asks for the batches of one scan."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def to_reader(self) -> Any:
        """Return the batches, as DuckDB expects it."""
        return self._reader


class Scanned(pyarrow.dataset.Dataset):  # type: ignore[misc]  # pyarrow has no types here
    """A table that is made while it is read; see the module."""

    def __init__(self, schema: Any, scan: Scan) -> None:
        # The class above is abstract, and refuses to be initialised.
        self._schema, self._scan = schema, scan
        self.failure: BaseException | None = None
        """What ended a scan. DuckDB keeps only its text."""

    @property
    def schema(self) -> Any:
        """The Arrow schema."""
        return self._schema

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> _Scanner:  # noqa: A002
        """Begin a scan, as DuckDB calls it."""
        shown = list(self._schema.names if columns is None else columns)
        text = "" if filter is None else str(filter)
        made = [*shown, *(name for name in self._schema.names if name in text and name not in shown)]
        schema = pa.schema([self._schema.field(name) for name in shown])

        def batches() -> Iterator[Any]:
            try:
                for batch in self._scan(made, earliest_ns(filter, self._schema)):
                    yield (batch if filter is None else batch.filter(filter)).select(shown)
            except Exception as error:
                self.failure = error
                raise

        return _Scanner(pa.RecordBatchReader.from_batches(schema, batches()))


def earliest_ns(condition: Any, schema: Any) -> int | None:
    """Return the time before which no row of a schema meets a condition, in nanoseconds since the epoch; None if it
    names no such time.

    ``condition``: an expression of pyarrow, or None. Its text only proposes times: it has texts of the query, and not
    all of them with their quotes escaped. Arrow then says whether a row before a time can meet the condition."""
    if condition is None or "timestamp" not in schema.names:
        return None
    proposed = {match[1] for match in itertools.islice(_NOT_BEFORE.finditer(str(condition)), _MAX_PROPOSED)}
    for text in sorted(proposed, reverse=True):
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            continue
        if not _may_be_before(time, condition, schema):
            return (time - _EPOCH) // _MICROSECOND * 1_000
    return None


def _may_be_before(time: datetime, condition: Any, schema: Any) -> bool:
    """Return whether a row before a time may meet a condition. Arrow passes over files if what it knows of all of their
    rows contradicts a condition; here it is asked about a file that does not exist."""
    files = pyarrow.dataset.IpcFileFormat()
    is_before = pyarrow.dataset.field("timestamp") < pa.scalar(time, _TYPES["TIMESTAMP"])
    file = files.make_fragment("", pyarrow.fs.LocalFileSystem(), partition_expression=is_before)
    return bool(list(pyarrow.dataset.FileSystemDataset([file], schema, files).get_fragments(condition)))
