"""Answers a call of a tool: runs its command, and makes the answer of what it prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import orjson

from streams.cli.mcp.answers import Records, TooLargeError, fit
from streams.cli.mcp.arguments import Json
from streams.cli.mcp.tools import Call, Tool
from streams.cli.runs import Bounds, Ended, TooMuchPrintedError, run, run_whole
from streams.observing.observe import MAX_RECORD_BYTES

MAX_DOCUMENT: Final = 8 << 20
"""Bytes of an answer that is one document, before it is cut."""
AT_ONCE: Final = 2
MAX_WAITING: Final = 8


class CallError(Exception):
    """There is no answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What all calls share."""

    env: Mapping[str, str]
    """The environment of commands."""
    seconds: float
    """How long a command may take."""


class Calls:
    """Answers calls, a few at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running = anyio.CapacityLimiter(AT_ONCE)

    async def answer(self, tool: Tool, arguments: Mapping[str, Any]) -> Json:
        """Return the answer. Raises :class:`CallError`, :class:`streams.cli.mcp.arguments.ArgumentError`."""
        call = tool.call(arguments)
        if self._running.statistics().tasks_waiting >= MAX_WAITING:
            raise CallError(f"{AT_ONCE} calls run and {MAX_WAITING} wait: ask again when they have ended")
        async with self._running:
            return await (self._records(call) if call.records else self._document(call))

    async def _records(self, call: Call) -> Json:
        records = Records(call.records, keeps_last=call.keeps_last)
        lines = _Lines()
        bad = 0

        def take(piece: bytes) -> bool:
            nonlocal bad
            for line in lines.split(piece):
                try:
                    records.add(line)
                except ValueError:
                    bad += 1
            return not records.is_full

        ended = await run(call.words, self._limits.env, call.stdin, self._limits.seconds, take)
        found = records.values
        if ended.is_late and not found:
            raise CallError(self._too_slow())
        if ended.code not in (0, None):
            raise CallError(_reason(ended))
        cuts = [*records.cuts(), *([f"{self._too_slow()}: more may fit"] if ended.is_late else [])]
        if lines.too_long or bad:
            cuts.append(f"{lines.too_long + bad} records are left out, because they are too large")
        return _answer(call, found, ended.lines, cuts)

    async def _document(self, call: Call) -> Json:
        bounds = Bounds(self._limits.seconds, MAX_DOCUMENT)
        try:
            ended, text = await run_whole(call.words, self._limits.env, call.stdin, bounds)
        except TooMuchPrintedError:
            raise CallError(
                f"the answer is larger than {MAX_DOCUMENT >> 20} MiB: ask for a shorter time, or for less"
            ) from None
        if ended.is_late:
            raise CallError(self._too_slow())
        try:
            # An exit code other than 0 is an answer, too: denied, something missing.
            found, cuts = fit(orjson.loads(text))
        except TooLargeError as error:
            raise CallError(str(error)) from error
        except orjson.JSONDecodeError as error:
            raise CallError(_reason(ended)) from error
        return _answer(call, found, ended.lines, cuts)

    def _too_slow(self) -> str:
        return (
            f"not answered within {self._limits.seconds:g} s: ask for a shorter time, or give weir mcp more (--timeout)"
        )


class _Lines:
    """Splits pieces of text into lines, without those that are too long."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_skipping = False
        self.too_long = 0

    def split(self, piece: bytes) -> Iterator[bytes]:
        """Yield the lines that end in a piece."""
        *lines, rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if self._is_skipping or len(line) > MAX_RECORD_BYTES:
                self.too_long += not self._is_skipping
                self._is_skipping = False
            elif line:
                yield line
        if len(rest) > MAX_RECORD_BYTES:
            self.too_long += not self._is_skipping
            self._is_skipping, rest = True, b""
        self._rest = rest


def _reason(ended: Ended) -> str:
    if ended.lines:
        return "\n".join(ended.lines)
    return f"the command ended with {ended.code} and said nothing"


def _answer(call: Call, found: Any, notes: list[str], cuts: list[str]) -> Json:
    return {"answer": found, "notes": notes, "truncated": cuts, "command": str(call)}
