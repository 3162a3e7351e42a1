"""Gives permanent numbers to what the kernel's maps refer to, and keeps their meaning in a file.

The kernel knows policy sets, rules, identities and endpoints by number only. A verdict that a killed probe left in the
ring must be named by the pod and the policies that it was decided by, so a number keeps its one meaning as long as the
maps are pinned. Example: rule 12 means NetworkPolicy shop/web-allow-api. The policy is deleted and another created; it
gets rule 13, and 12 is never used again.

The ledger is kept in a file (``probe.ledger_file``), in a folder that is emptied by a reboot, as the pins are. A number
is in the file before a map refers to it (:meth:`Ledger.flush`), unless the disk takes nothing: policy does not wait for
it. Even if the file is lost, no number gets another meaning while the kernel still has it: what the maps, deny
windows and rings refer to is reserved at the start (:meth:`Ledger.reserve`). A kind that this version does not know was
written by another version; its numbers are ignored, because no map of this version's layout refers to them.

Numbers that nothing refers to any longer are forgotten (``probe.ledger_compaction``). The highest number of each kind
stays in the file, so that none is given out twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from enrich.wire.batch import EndpointRef, PolicyRef
from probe.ledger_file import LedgerFile, Line

KINDS: Final = ("identity", "set", "port_list", "rule", "endpoint")
"""What is numbered, each kind from 1 on; 0 stands for none."""


class Ledger:
    """The ledger in memory and on disk. One thread writes; any thread may call :meth:`meaning`."""

    def __init__(self, file: LedgerFile, lines: Iterable[Line]) -> None:
        """Append to ``file``, which has ``lines``."""
        self._by_signature: dict[tuple[str, str], int] = {}
        self._meanings: dict[tuple[str, int], Any] = {}
        self._next: dict[str, int] = dict.fromkeys(KINDS, 1)
        self._file = file
        for line in lines:
            if line.kind in KINDS:
                self._remember(line)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the ledger in a file. One that is missing or damaged is made with the next :meth:`flush`."""
        file = LedgerFile(path)
        return cls(file, file.read())

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._file.path

    @property
    def problem(self) -> str | None:
        """Why the file does not have all numbers, in words; None if it does (any thread)."""
        return self._file.problem

    def number_of(self, kind: str, signature: str, meaning: Any = None) -> int:
        """Return the number of the thing with this signature, a new one if it has none.

        ``meaning`` is kept with a new number; it is anything that JSON can hold. Call :meth:`flush` before a map refers
        to the number.
        """
        known = self._by_signature.get((kind, signature))
        if known is not None:
            return known
        line = Line(kind, self._next[kind], signature, meaning)
        self._remember(line)
        self._file.add(line)
        return line.number

    def flush(self) -> None:
        """Write the new numbers to the file. If the disk does not take them, :attr:`problem` says so."""
        self._file.flush(self._lines)

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
        """Forget these numbers, by kind, except the highest of each kind. Write the file anew."""
        highest = {kind: max(known, default=0) for kind, known in self.numbers().items()}
        gone = {(kind, number) for kind, some in numbers.items() for number in some if number != highest[kind]}
        self._by_signature = {
            known: number for known, number in self._by_signature.items() if (known[0], number) not in gone
        }
        self._meanings = {known: meaning for known, meaning in self._meanings.items() if known not in gone}
        self._file.rewrite()
        self.flush()

    def close(self) -> None:
        """Write the new numbers and close the file."""
        self.flush()
        self._file.close()

    def _lines(self) -> Iterator[Line]:
        for (kind, signature), number in self._by_signature.items():
            yield Line(kind, number, signature, self._meanings.get((kind, number)))

    def _remember(self, line: Line) -> None:
        before = self._by_signature.get((line.kind, line.signature))
        if before is not None:
            # It was forgotten when the file could not be written anew, and got another number later.
            self._meanings.pop((line.kind, before), None)
        self._by_signature[line.kind, line.signature] = line.number
        if line.meaning is not None:
            self._meanings[line.kind, line.number] = line.meaning
        self._next[line.kind] = max(self._next[line.kind], line.number + 1)


class LedgerReferences:
    """Resolves the numbers in verdicts by the ledger; it is the batcher's ``References``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def endpoint(self, number: int) -> EndpointRef | None:
        """Return the pod of an endpoint number, None if it is unknown."""
        meaning = self._ledger.meaning("endpoint", number)
        return msgspec.convert(meaning, EndpointRef) if meaning else None

    def rule(self, number: int) -> list[PolicyRef] | None:
        """Return the policies of a rule number, None if it is unknown."""
        meaning = self._ledger.meaning("rule", number)
        return msgspec.convert(meaning, list[PolicyRef]) if meaning is not None else None
