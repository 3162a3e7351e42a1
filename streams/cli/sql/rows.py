"""Makes Arrow record batches of rows, for tables whose sources are read object by object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import pyarrow as pa

_ROWS_AT_ONCE: Final = 8_192
Row = TypeVar("Row")


def record_batches(
    rows: Iterable[Row], schema: Any, values: Mapping[str, Callable[[Row], Any]], columns: Sequence[str]
) -> Iterator[Any]:
    """Yield record batches with some columns of the rows. ``values`` says what each column has of a row."""
    fields = [schema.field(name) for name in columns]
    left = iter(rows)
    while taken := list(islice(left, _ROWS_AT_ONCE)):
        arrays = [pa.array(list(map(values[one.name], taken)), one.type) for one in fields]
        yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def microseconds(ns: int) -> int:
    """Return a time in nanoseconds as a TIMESTAMP has it."""
    return ns // 1_000
