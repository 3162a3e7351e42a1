"""What is shown while a command reads does not stay in front of its answer."""

from __future__ import annotations

import io

import pytest

from streams.cli.terminal import progress_removed, show_progress
from streams.kafka.connection import ReadError


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _fail() -> None:
    with progress_removed():
        show_progress("5 of 10 records")
        raise ReadError("Kafka cannot be reached")


def test_progress_is_removed_before_an_error_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with pytest.raises(ReadError):
        _fail()
    assert terminal.getvalue() == "\r\033[Kweir: 5 of 10 records\r\033[K"


def test_nothing_is_written_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    with pytest.raises(ReadError):
        _fail()
    assert not file.getvalue()
