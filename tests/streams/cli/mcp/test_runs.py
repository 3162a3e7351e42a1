"""What a command says on standard error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import anyio
from anyio.abc import ByteReceiveStream

from streams.cli.mcp.runs import _MAX_STDERR, _lines, _read_errors


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
