"""What a command says on standard error."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import cast

import anyio
import pytest
from anyio.abc import ByteReceiveStream

from streams.cli import runs
from streams.cli.runs import _MAX_STDERR, Bounds, TooMuchPrintedError, _lines, _read_errors, run_whole


def test_lines_that_are_left_out_of_many_are_counted() -> None:
    assert _lines(b"Usage: weir\nError: no\n\nweir: a\x1b\n") == ["no", "a\\x1b"]
    assert len(_lines(b"a\n" * 20)) == 20
    found = _lines(b"".join(b"line %d\n" % number for number in range(25)))
    assert (found[0], found[1], found[-1], len(found)) == ("... (cut: 5 lines)", "line 5", "line 24", 21)


def test_of_much_that_a_command_says_the_end_is_kept() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * (_MAX_STDERR // 2)
        yield b"\nweir: Kafka cannot be reached\n"

    errors = bytearray()
    anyio.run(_read_errors, cast("ByteReceiveStream", pieces()), errors)
    assert len(errors) == _MAX_STDERR
    assert _lines(bytes(errors))[-1] == "Kafka cannot be reached"


def test_a_command_that_keeps_or_prints_too_much_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topics decide how much a command has to keep."""
    keep = "import time; kept = [b'x' * (1 << 20) for _ in range(100)]; time.sleep(500)"
    monkeypatch.setattr(runs, "_PROGRAM", (*runs._PROGRAM[:2], "-c", keep))
    ended, text = anyio.run(run_whole, (), os.environ, b"", Bounds(400, 100, 64 << 20))
    assert (ended.is_too_large, ended.is_late, text) == (True, False, b"")
    monkeypatch.setattr(runs, "_PROGRAM", (*runs._PROGRAM[:2], "-c", "while True: print('much')"))
    with pytest.raises(TooMuchPrintedError):
        anyio.run(run_whole, (), os.environ, b"", Bounds(500, 100))
