"""Runs a command of `weir` in a process of its own, which is ended when its time is over or it has printed enough.

What a question costs depends on how much Kafka keeps, and a thread that waits for a library of C cannot be ended. A
process can: when the client cancels its request, and when the server stops. `weir mcp` and the page ask so.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from streams.cli.terminal import printable

_MAX_STDERR: Final = 16 << 10
_MAX_LINES: Final = 20
_LOOK_S: Final = 0.1
"""How often the memory that a process uses is read."""
_PAGE: Final = os.sysconf("SC_PAGESIZE")
_END_S: Final = 2.0
"""How long a process may take to end after SIGTERM; then it is killed."""
# Without -P, Python would import modules from the folder in which the client starts the server in place of ours.
_PROGRAM: Final = (sys.executable, "-P", "-m", "streams.cli.main")
Take = Callable[[bytes], bool]
"""Takes a piece of standard output, and returns whether to go on."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int | None
    """Its exit code; None if it was ended from outside."""
    is_late: bool
    """Whether its time was over."""
    lines: list[str]
    """What it said on standard error, without its name."""
    is_too_large: bool = False
    """Whether it took too much memory."""


class Bounds(NamedTuple):
    """What a command may take."""

    seconds: float
    max_printed: int
    """Bytes that are read of its standard output."""
    max_memory: int = 0
    """Bytes of memory that it may use; 0: as much as there is."""


class TooMuchPrintedError(Exception):
    """A command has printed more than it may."""


async def run_whole(words: Sequence[str], env: Mapping[str, str], stdin: bytes, bounds: Bounds) -> tuple[Ended, bytes]:
    """Run a command, and return all that it has printed. Raises TooMuchPrintedError."""
    text = bytearray()

    def take(piece: bytes) -> bool:
        text.extend(piece)
        return len(text) <= bounds.max_printed

    ended = await run(words, env, stdin, bounds.seconds, take, bounds.max_memory)
    if len(text) > bounds.max_printed:
        raise TooMuchPrintedError
    return ended, bytes(text)


async def run(
    words: Sequence[str], env: Mapping[str, str], stdin: bytes, seconds: float, take: Take, max_memory: int = 0
) -> Ended:
    """Run a command, and hand what it prints to ``take``. When this returns or raises, the process has ended.

    ``max_memory``: as in :class:`Bounds`."""
    errors = bytearray()
    process = await anyio.open_process([*_PROGRAM, *words], env=env, stdin=subprocess.PIPE)
    memory = _Memory(process, max_memory)
    try:
        with anyio.move_on_after(seconds) as limit:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_write, cast("ByteSendStream", process.stdin), stdin)
                tasks.start_soon(_read_errors, cast("ByteReceiveStream", process.stderr), errors)
                if max_memory:
                    tasks.start_soon(memory.watch, tasks.cancel_scope)
                if await _read_all(cast("ByteReceiveStream", process.stdout), take):
                    await process.wait()
                else:
                    tasks.cancel_scope.cancel()
        code = process.returncode
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
    return Ended(code, limit.cancelled_caught, _lines(bytes(errors)), memory.is_too_much)


class _Memory:
    """Watches how much memory a process uses.

    A limit of the kernel (RLIMIT_DATA) would count what is only reserved: eight MiB for each thread, of which libraries
    start one for each broker and each core."""

    def __init__(self, process: Process, most: int) -> None:
        self._process, self._most = process, most
        self.is_too_much = False

    async def watch(self, scope: anyio.CancelScope) -> None:
        """Cancel a scope when the process uses too much. Return when it has ended."""
        while self._process.returncode is None:
            if self._used() > self._most:
                self.is_too_much = True
                scope.cancel()
                return
            await anyio.sleep(_LOOK_S)

    def _used(self) -> int:
        try:
            _, resident, *_ = Path(f"/proc/{self._process.pid}/statm").read_text().split()
        except (OSError, ValueError):
            return 0  # it has ended
        return int(resident) * _PAGE


async def _write(stream: ByteSendStream, text: bytes) -> None:
    """Write standard input, and close it. A command that ends early reads no more."""
    async with stream:
        with contextlib.suppress(anyio.BrokenResourceError):
            await stream.send(text)


async def _read_all(stream: ByteReceiveStream, take: Take) -> bool:
    """Read standard output to its end, and return True; False if no more is wanted."""
    async for piece in stream:
        if not take(piece):
            return False
    return True


async def _read_errors(stream: ByteReceiveStream, errors: bytearray) -> None:
    """Read standard error to its end, and keep the last part of it: why a command fails stands at the end."""
    async for piece in stream:
        errors += piece
        del errors[:-_MAX_STDERR]


async def _end(process: Process) -> None:
    """End a process, if it has not ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(_END_S):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.aclose()


def _lines(errors: bytes) -> list[str]:
    """Return what a person would read: no name of the program, no hint where its help is."""
    found = [
        line.removeprefix("weir: ").removeprefix("Error: ") for line in errors.decode(errors="replace").split("\n")
    ]
    shown = [printable(line) for line in found if line.strip() and not line.startswith(("Usage: ", "Try "))]
    left_out = len(shown) - _MAX_LINES
    return shown if left_out <= 0 else [f"... (cut: {left_out} lines)", *shown[left_out:]]
