"""A process that judges a part of the records may end at any time."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from streams.cli.verify_shares import Share, _Others
from streams.kafka.connection import ReadError


@pytest.mark.parametrize("said", [b"", b"\x00\x00\x10\x00half of an answer"])
def test_a_process_that_has_ended_is_no_answer(said: bytes) -> None:
    mine, theirs = multiprocessing.Pipe(duplex=False)
    os.write(theirs.fileno(), said)
    theirs.close()
    with pytest.raises(ReadError, match="has ended"):
        _Others({mine: Share({}, {})}).read()
    mine.close()
