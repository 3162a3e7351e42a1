"""A thread that may read only so much, and only so long, ends with an error; another one goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Message

from streams.kafka import reading
from streams.kafka.reading_limit import ReadingLimitError, reading_within, spend


def test_too_many_bytes_and_too_much_time_end_the_reading() -> None:
    spend(1 << 40)
    with reading_within(60, 2 << 20):
        spend(2 << 20)
        with pytest.raises(ReadingLimitError, match="more than 2 MiB"):
            spend(1)
    with reading_within(0, 1 << 20):
        time.sleep(0.001)
        with pytest.raises(ReadingLimitError, match="takes longer than 0 s"):
            spend()
    spend(1 << 40)


def test_the_limit_is_of_one_thread() -> None:
    found: list[str] = []

    def read() -> None:
        spend(1 << 40)
        found.append("read")

    with reading_within(60, 1):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert found == ["read"]


def test_sizes_are_only_added_up_where_there_is_a_limit() -> None:
    asked = []

    def messages() -> Iterator[Message]:
        asked.append(1)
        yield Message(topic="flows", value=b"x" * 100)

    reading._spend(messages())
    assert not asked
    with reading_within(60, 100):
        reading._spend(messages())
        with pytest.raises(ReadingLimitError, match="more than 0 MiB"):
            reading._spend(messages())
