"""What a command says on standard error."""

from __future__ import annotations

from streams.cli.mcp.runs import _lines


def test_lines_that_are_left_out_of_many_are_counted() -> None:
    assert _lines(b"Usage: weir\nError: no\n\nweir: a\x1b\n") == ["no", "a\\x1b"]
    assert len(_lines(b"a\n" * 20)) == 20
    found = _lines(b"".join(b"line %d\n" % number for number in range(25)))
    assert (found[0], found[1], found[-1], len(found)) == ("... (cut: 5 lines)", "line 5", "line 24", 21)
