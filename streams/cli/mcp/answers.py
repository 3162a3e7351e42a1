"""Makes of what a command has printed the answer that a client gets: clean, and of a bounded size.

Names, labels and annotations are chosen by whoever may create objects in the cluster, and may be written to mislead an
assistant that reads them. So texts stay values of a structure, and characters that people cannot see (control
characters, changes of direction, tags) are escaped as the commands escape them for terminals.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from streams.cli.terminal import printable

MAX_BYTES: Final = 64 << 10
"""An answer as JSON, at most: about 20,000 tokens of a language model."""
_MAX_TEXT: Final = 2000
_MAX_DEPTH: Final = 30
_MOST_ITEMS: Final = 512
_FEWEST_KEYS: Final = 64
"""Objects keep so many keys: ours have fewer, but labels and annotations may have any number."""
_MAX_NAME: Final = 100
"""Characters of a key in a line that says where a list was cut."""


class TooLargeError(ValueError):
    """An answer does not fit, even with one item of each list."""


def clean(value: Any, depth: int = 0) -> Any:
    """Return a value of JSON in which every text is printable and not too long."""
    if isinstance(value, str):
        shown = printable(value[:_MAX_TEXT])
        return shown if len(value) <= _MAX_TEXT else f"{shown}... (cut: {len(value):,} characters)"
    if isinstance(value, (list, dict)) and depth >= _MAX_DEPTH:
        return "... (cut: too deep)"
    if isinstance(value, list):
        return [clean(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {clean(name): clean(one, depth + 1) for name, one in value.items()}
    return value


def size(value: Any) -> int:
    """Return the bytes that a value has as JSON."""
    return len(orjson.dumps(value))


def fit(value: Any, most: int = MAX_BYTES) -> tuple[Any, list[str]]:
    """Return a clean value in which lists are cut until it fits into ``most`` bytes, and a line for each cut list.

    Raises :class:`TooLargeError`."""
    items = _MOST_ITEMS
    while items:
        cuts: dict[str, None] = {}
        cut = clean(_cut(value, items, "", cuts))
        if size(cut) <= most:
            return cut, [printable(line) for line in cuts]
        items //= 2
    raise TooLargeError(f"the answer has more than {most >> 10} KiB: ask for less")


def _cut(value: Any, items: int, place: str, cuts: dict[str, None], depth: int = 0) -> Any:
    if depth >= _MAX_DEPTH:
        return value  # clean() puts a text in its place
    if isinstance(value, list):
        if len(value) > items:
            cuts[f"{place or 'answer'}: the first {items:,} of {len(value):,}"] = None
        return [_cut(one, items, f"{place}[]", cuts, depth + 1) for one in value[:items]]
    if isinstance(value, dict):
        keys = max(items, _FEWEST_KEYS)
        if len(value) > keys:
            cuts[f"{place or 'answer'}: the first {keys:,} of {len(value):,} keys"] = None
        named = list(value.items())[:keys]
        return {
            name: _cut(one, items, f"{place}.{name[:_MAX_NAME]}".lstrip("."), cuts, depth + 1) for name, one in named
        }
    return value


class _Kept(NamedTuple):
    """A record that is kept."""

    value: Any
    bytes: int
    is_cut: bool
    """Whether a list in it is not whole."""


class Records:
    """Collects records, one on a line, up to a count and a size: the first ones, or the last ones."""

    def __init__(self, most: int, *, keeps_last: bool, max_bytes: int = MAX_BYTES) -> None:
        self._most, self._keeps_last, self._max_bytes = most, keeps_last, max_bytes
        self._found: list[_Kept] = []
        self._bytes = 0
        self._left_out = 0
        self.is_full = False
        """Whether no further record can be kept."""

    def add(self, line: bytes) -> None:
        """Take a line. Raises ValueError if it is not JSON."""
        value, cuts = fit(orjson.loads(line), self._max_bytes // 2)
        length = size(value)
        self._found.append(_Kept(value, length, bool(cuts)))
        self._bytes += length
        while len(self._found) > self._most or self._bytes > self._max_bytes:
            self._bytes -= self._found.pop(0 if self._keeps_last else -1).bytes
            self._left_out += 1
            self.is_full = not self._keeps_last

    @property
    def values(self) -> list[Any]:
        """The records that are kept, in their order."""
        return [one.value for one in self._found]

    def cuts(self) -> Iterator[str]:
        """Yield what is missing."""
        if self._left_out:
            which = "last" if self._keeps_last else "first"
            yield f"only the {which} {len(self._found):,} records are here: narrow the question, or use fields or by"
        if cut := sum(one.is_cut for one in self._found):
            yield f"lists are cut in {cut:,} of the records"
