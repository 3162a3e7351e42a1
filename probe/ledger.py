"""Numbers for what the kernel's maps refer to, each with one meaning for ever, in a ledger that outlives the probe.

The ledger is a file of JSON lines, one a number, in a folder that lives as long as the pins do (both are gone after a
reboot). A number is in the file before a map refers to it; a torn last line (the probe was killed while writing) was
never in use and is dropped. Endpoints and rules carry what they stand for: a row that a killed probe left in the ring
gets the pod and the policies that it was decided by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

import orjson

KINDS: Final = ("identity", "set", "row", "rule", "endpoint")
"""What is numbered, each from 1; 0 stands for none."""


class Ledger:
    """The ledger, in memory and on disk. One writer; :meth:`meaning` may be called from other threads."""

    def __init__(self, path: Path, entries: list[tuple[str, int, str, Any]]) -> None:
        self._by_signature: dict[tuple[str, str], int] = {}
        self._meanings: dict[tuple[str, int], Any] = {}
        self._next: dict[str, int] = dict.fromkeys(KINDS, 1)
        for kind, number, signature, meaning in entries:
            self._remember(kind, number, signature, meaning)
        self._pending: list[bytes] = []
        self._file = path.open("ab")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a ledger back, or begin one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            with path.open("r+b") as file:
                file.truncate(whole)
        return cls(path, [tuple(orjson.loads(line)) for line in text[:whole].splitlines()])

    def number_of(self, kind: str, signature: str, meaning: Any = None) -> int:
        """The number of what has this signature; a new one if there is none. In use only after :meth:`flush`."""
        known = self._by_signature.get((kind, signature))
        if known is not None:
            return known
        number = self._next[kind]
        self._remember(kind, number, signature, meaning)
        self._pending.append(orjson.dumps([kind, number, signature, meaning]) + b"\n")
        return number

    def flush(self) -> None:
        """Write what is new. Before any map refers to it."""
        if self._pending:
            self._file.write(b"".join(self._pending))
            self._file.flush()
            self._pending.clear()

    def meaning(self, kind: str, number: int) -> Any:
        """What was given with the number, None where nothing was or it is not known."""
        return self._meanings.get((kind, number))

    def reserve(self, kind: str, highest: int) -> None:
        """Begin above ``highest``: numbers that maps refer to, but a ledger that was lost does not know."""
        self._next[kind] = max(self._next[kind], highest + 1)

    def close(self) -> None:
        """Write what is new and close the file."""
        self.flush()
        self._file.close()

    def _remember(self, kind: str, number: int, signature: str, meaning: Any) -> None:
        self._by_signature[kind, signature] = number
        if meaning is not None:
            self._meanings[kind, number] = meaning
        self._next[kind] = max(self._next[kind], number + 1)
