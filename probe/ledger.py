"""Gives permanent numbers to what the kernel's maps refer to, and keeps their meaning in a file.

The kernel knows policy sets, rules, identities and endpoints by number only. A verdict that a killed probe left in the
ring must be named by the pod and the policies that it was decided by, so a number keeps its one meaning as long as the
maps are pinned. Example: rule 12 means NetworkPolicy shop/web-allow-api. The policy is deleted and another created; it
gets rule 13, and 12 is never used again.

The ledger is a file of JSON lines, one for each number, in a folder that is emptied by a reboot, as the pins are. A
number is in the file before a map refers to it (:meth:`Ledger.flush`). If the probe is killed while it writes, the last
line is torn: no map refers to its number yet, so it is dropped. A kind that this version does not know was written by
another version; its numbers are ignored, because no map of this version's layout refers to them.

Numbers that nothing refers to any longer are forgotten (``probe.ledger_compaction``). The highest number of each kind
stays in the file, so that none is given out twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Final, Self

import orjson

from enrich.runtime.private import make_private, make_private_folder, open_private
from enrich.wire.batch import EndpointRef, PolicyRef

KINDS: Final = ("identity", "set", "port_list", "rule", "endpoint")
"""What is numbered, each kind from 1 on; 0 stands for none."""


class Ledger:
    """The ledger in memory and on disk. One thread writes; any thread may call :meth:`meaning`."""

    def __init__(self, path: Path, entries: list[tuple[str, int, str, Any]]) -> None:
        """Append to the file ``path``, whose ``entries`` are kind, number, signature and meaning."""
        self._by_signature: dict[tuple[str, str], int] = {}
        self._meanings: dict[tuple[str, int], Any] = {}
        self._next: dict[str, int] = dict.fromkeys(KINDS, 1)
        for kind, number, signature, meaning in entries:
            if kind in KINDS:
                self._remember(kind, number, signature, meaning)
        self._unwritten: list[bytes] = []
        self.path = path
        self._file = os.fdopen(open_private(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), "ab")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the ledger in a file, or create it."""
        make_private_folder(path.parent)
        make_private(path)
        text = path.read_bytes() if path.exists() else b""
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            with path.open("r+b") as file:
                file.truncate(whole)
        return cls(path, [tuple(orjson.loads(line)) for line in text[:whole].splitlines()])

    def number_of(self, kind: str, signature: str, meaning: Any = None) -> int:
        """Return the number of the thing with this signature, a new one if it has none.

        ``meaning`` is kept with a new number; it is anything that JSON can hold. Call :meth:`flush` before a map refers
        to the number.
        """
        known = self._by_signature.get((kind, signature))
        if known is not None:
            return known
        number = self._next[kind]
        self._remember(kind, number, signature, meaning)
        self._unwritten.append(orjson.dumps([kind, number, signature, meaning]) + b"\n")
        return number

    def flush(self) -> None:
        """Write the new numbers to the file."""
        if self._unwritten:
            self._file.write(b"".join(self._unwritten))
            self._file.flush()
            self._unwritten.clear()

    def meaning(self, kind: str, number: int) -> Any:
        """Return what was kept with the number, None if nothing was or the number is unknown."""
        return self._meanings.get((kind, number))

    def reserve(self, kind: str, highest: int) -> None:
        """Never give out the numbers up to ``highest``: maps refer to them, but a ledger that was lost has none."""
        self._next[kind] = max(self._next[kind], highest + 1)

    def __len__(self) -> int:
        """Return how many numbers are known."""
        return len(self._by_signature)

    def numbers(self) -> dict[str, set[int]]:
        """Return the numbers that are known, by kind."""
        found: dict[str, set[int]] = {kind: set() for kind in KINDS}
        for (kind, _), number in self._by_signature.items():
            found[kind].add(number)
        return found

    def forget(self, numbers: Mapping[str, Set[int]]) -> None:
        """Forget these numbers, by kind, except the highest of each kind. Write the file anew.

        Raises OSError; then nothing is forgotten.
        """
        highest = {kind: max(known, default=0) for kind, known in self.numbers().items()}
        gone = {(kind, number) for kind, some in numbers.items() for number in some if number != highest[kind]}
        kept = {known: number for known, number in self._by_signature.items() if (known[0], number) not in gone}
        lines = (
            orjson.dumps([kind, number, signature, self._meanings.get((kind, number))]) + b"\n"
            for (kind, signature), number in kept.items()
        )
        new = self.path.with_name(f"{self.path.name}.new")
        with open(new, "wb", opener=open_private) as file:
            file.writelines(lines)
        new.replace(self.path)
        self._file.close()
        self._file = os.fdopen(open_private(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), "ab")
        # The file has the numbers that were not written yet, too.
        self._unwritten.clear()
        self._by_signature = kept
        self._meanings = {known: meaning for known, meaning in self._meanings.items() if known not in gone}

    def close(self) -> None:
        """Write the new numbers and close the file."""
        self.flush()
        self._file.close()

    def _remember(self, kind: str, number: int, signature: str, meaning: Any) -> None:
        self._by_signature[kind, signature] = number
        if meaning is not None:
            self._meanings[kind, number] = meaning
        self._next[kind] = max(self._next[kind], number + 1)


class LedgerReferences:
    """Resolves the numbers in verdicts by the ledger; it is the batcher's ``References``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def endpoint(self, number: int) -> EndpointRef | None:
        """Return the pod of an endpoint number, None if it is unknown."""
        meaning = self._ledger.meaning("endpoint", number)
        return EndpointRef(**meaning) if meaning else None

    def rule(self, number: int) -> list[PolicyRef] | None:
        """Return the policies of a rule number, None if it is unknown."""
        meaning = self._ledger.meaning("rule", number)
        return [PolicyRef(**entry) for entry in meaning] if meaning is not None else None
