"""Batches into a spool, for tests that make a batch's bytes rather than its parts, and a spool on a disk that hangs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from enrich.wire.batch import decode_batch
from probe.export.acknowledged import Acknowledged
from probe.export.recovery import Recovered, recover
from probe.export.spool import Spool


def append(spool: Spool, value: bytes) -> None:
    """Append an encoded batch."""
    spool.append(value, decode_batch(value).header)


def hang_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let no spool be opened until the event that is returned is set."""
    answers = threading.Event()

    def hang(folder: Path, noted: Acknowledged | None) -> Recovered:
        assert answers.wait(60)
        return recover(folder, noted)

    monkeypatch.setattr("probe.export.spool.recover", hang)
    return answers
