"""``--by``: how many records have each combination of some fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson
from rich.console import Console

from enrich.wire.flow import Flow
from streams.cli.columns import OTHERS, Read, as_object, row_of
from streams.cli.terminal import printable, table_lines

_MAX_GROUPS: Final = 100_000
"""Combinations that are counted each; further ones are counted together."""
_HEADINGS: Final = ("RECORDS", "COUNT", "LAST")
_NUMBERS: Final = (0, 1)
"""The columns that have numbers."""


class Count(msgspec.Struct):
    """What one combination has."""

    records: int = 0
    count: int = 0
    """The packets that the records count: a denied connection that is tried again has several."""
    first: str = ""
    last: str = ""

    def add(self, count: int, time: str) -> None:
        """Count one record more. Times come in any order."""
        self.records, self.count = self.records + 1, self.count + count
        self.first, self.last = min(self.first or time, time), max(self.last, time)


class Counts:
    """Counts rows as :meth:`row` makes them."""

    def __init__(self, columns: Mapping[str, Read], most: int = _MAX_GROUPS) -> None:
        self._columns, self._most = columns, most
        self._found: dict[tuple[str, ...], Count] = {}
        self._others = Count()

    def row(self, flow: Flow) -> list[str | int]:
        """Return what is counted of a record."""
        return [flow.count, flow.timestamp, *row_of(self._columns, flow)]

    def add_all(self, rows: Iterable[Sequence[Any]]) -> None:
        """Count rows."""
        for count, time, *fields in rows:
            group = tuple(fields)
            found = self._found.get(group)
            if found is None:
                found = self._found.setdefault(group, Count()) if len(self._found) < self._most else self._others
            found.add(count, time)

    def __len__(self) -> int:
        return len(self._found)

    def ordered(self) -> Iterator[tuple[tuple[str, ...], Count]]:
        """Yield the combinations, that with the most records first, and last what is counted together."""
        yield from sorted(self._found.items(), key=lambda pair: (-pair[1].records, pair[0]))
        if self._others.records:
            yield (OTHERS, *("" for _ in list(self._columns)[1:])), self._others

    def objects(self) -> Iterator[bytes]:
        """Yield a JSON object for each combination."""
        for group, count in self.ordered():
            if count is self._others:
                yield orjson.dumps({**dict.fromkeys(self._columns), "others": True, **msgspec.to_builtins(count)})
            else:
                yield orjson.dumps({**as_object(list(self._columns), group), **msgspec.to_builtins(count)})

    def write(self, console: Console) -> None:
        """Write a table."""
        lines = [[*_HEADINGS, *(name.upper() for name in self._columns)]]
        for group, count in self.ordered():
            numbers = [f"{count.records:,}", f"{count.count:,}", f"{count.last[:10]} {count.last[11:19]}"]
            # Whoever may write to the topic chooses texts, and a terminal obeys some.
            lines.append([*numbers, *(printable(text) or "-" for text in group)])
        for number, text in enumerate(table_lines(lines, _NUMBERS)):
            console.print(text, style="" if number else "bold", soft_wrap=True, markup=False)
