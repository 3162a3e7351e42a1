"""The file of the ledger: JSON lines of kind, number, signature and meaning. It never keeps policy from the kernel.

- A line that is damaged, wherever it is, costs its own meaning and no other. The file is then set aside, and its good
  lines are written anew. A last line without an end is not damage: the probe was killed while it wrote.
- Two lines that give one number two meanings are both left out, because it is not known which is right.
- A disk that takes nothing is reported by :attr:`LedgerFile.problem`, and every flush tries again. Until it takes the
  numbers, a kill of the probe costs the names behind them, and nothing else: numbers that the kernel still has are
  reserved at the next start (:meth:`probe.ledger.Ledger.reserve`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import structlog

from enrich.runtime.private import make_private, make_private_folder
from enrich.runtime.state_file import DamagedError, read_state, replace_state, set_aside, write_whole
from enrich.wire.batch import EndpointRef, PolicyRef

log = structlog.get_logger("kubeweir.probe")

MAX_NUMBER: Final = (1 << 31) - 1
"""The kernel's numbers have 32 bits. One that is larger than this was damaged, and would leave no room above it."""
_CONSEQUENCE: Final = "verdicts with the numbers of its damaged lines name no pod or no policy"
_RETRY_S: Final = 1.0
_MEANINGS: Final[dict[str, Any]] = {"endpoint": EndpointRef, "rule": list[PolicyRef]}
_decode: Final = msgspec.json.Decoder(tuple[str, Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)], str, Any]).decode


class Line(NamedTuple):
    """A line of the file."""

    kind: str
    number: int
    signature: str
    meaning: Any = None

    def encode(self) -> bytes:
        """Return the line as it is written."""
        return msgspec.json.encode(self) + b"\n"


class LedgerFile:
    """The file. One thread uses it; any thread may read ``problem``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        """Why the file does not have all numbers, in words; None if it does."""
        self._descriptor = -1
        self._size = 0
        """The bytes of the lines that are surely written."""
        self._unwritten: list[bytes] = []
        self._is_stale = False
        """The file must be written anew: it has damaged lines, or numbers that were forgotten."""
        self._tried_at = -_RETRY_S

    def read(self) -> list[Line]:
        """Return the lines that the last process has left."""
        try:
            make_private_folder(self.path.parent)
            make_private(self.path)
            content = read_state(self.path)
        except FileNotFoundError:
            return []
        except (OSError, DamagedError) as error:
            set_aside(self.path, "ledger", str(error), "verdicts of the last probe name no pod and no policy")
            return []
        whole = content.rfind(b"\n") + 1
        lines, damaged = _parse(content[:whole])
        torn = content[whole:]
        if torn and (b"\0" in torn or not torn.startswith(b"[")):
            damaged = damaged or "its end is damaged"
        if damaged:
            set_aside(self.path, "ledger", damaged, _CONSEQUENCE)
            self._is_stale = True
        self._size = 0 if damaged else whole
        return lines

    def add(self, line: Line) -> None:
        """Have the next flush write a line."""
        if not self._is_stale:
            self._unwritten.append(line.encode())

    def rewrite(self) -> None:
        """Have the next flush write the file anew, without the lines that were forgotten."""
        self._is_stale, self._tried_at = True, -_RETRY_S
        # The new file has these lines too. Until a disk takes it, they would only take memory.
        self._unwritten.clear()

    def flush(self, every_line: Callable[[], Iterable[Line]]) -> None:
        """Write what the file does not have. ``every_line`` returns all lines that are known."""
        if not (self._unwritten or self._is_stale):
            return
        if self.problem is not None and time.monotonic() - self._tried_at < _RETRY_S:
            return
        self._tried_at = time.monotonic()
        try:
            if self._is_stale:
                self._replace(b"".join(line.encode() for line in every_line()))
            else:
                self._append(b"".join(self._unwritten))
        except OSError as error:
            if self.problem is None:
                log.error("the ledger cannot be written: policy is in force all the same", file=str(self.path),
                          error=str(error), consequence="if the probe is killed now, verdicts may stay unnamed",
                          )  # fmt: skip
            self.problem = f"the ledger cannot be written to {self.path} ({error.strerror})"
            return
        self._unwritten.clear()
        self.problem = None

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, block: bytes) -> None:
        if self._descriptor < 0:
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
            # A torn last line goes before the next one is appended.
            os.ftruncate(self._descriptor, self._size)
        try:
            write_whole(self._descriptor, block)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(block)

    def _replace(self, content: bytes) -> None:
        replace_state(self.path, content)
        self.close()
        self._size, self._is_stale = len(content), False


def _parse(content: bytes) -> tuple[list[Line], str]:
    """Return the good lines, and what is wrong with the others; empty if all are good."""
    lines: dict[tuple[str, int], Line] = {}
    wrong: list[str] = []
    ambiguous: set[tuple[str, int]] = set()
    for place, raw in enumerate(content.split(b"\n")[:-1], 1):
        try:
            line = Line(*_decode(raw))
            if line.meaning is not None and line.kind in _MEANINGS:
                msgspec.convert(line.meaning, _MEANINGS[line.kind])
        except (ValueError, RecursionError) as error:
            wrong.append(f"line {place}: {error}")
            continue
        known = lines.setdefault(line[:2], line)
        if known != line:
            wrong.append(f"line {place}: {line.kind} {line.number} has another meaning in an earlier line")
            ambiguous.add(line[:2])
    good = [line for key, line in lines.items() if key not in ambiguous]
    return good, f"{len(wrong)} of its lines are damaged ({wrong[0]})" if wrong else ""
