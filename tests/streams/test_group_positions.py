"""What is said of how far groups have come (``streams.kafka.group_positions``), without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.kafka import group_positions as module
from streams.kafka.committed import CommittedOffsets
from streams.kafka.group_positions import GroupPosition, group_positions
from streams.kafka.records import TopicAndPartition


def test_what_retention_has_removed_waits_no_more_and_a_refused_group_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin = MagicMock()
    admin.list_topics.return_value.topics = {"t": SimpleNamespace(partitions=[0, 1, 2])}
    starts, ends = {("t", 0): 40, ("t", 1): 70, ("t", 2): 30}, {("t", 0): 100, ("t", 1): 90, ("t", 2): 30}

    def committed(_self: CommittedOffsets, group: str, _places: object) -> dict[TopicAndPartition, int]:
        if group == "refused":
            raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "no right"))
        return {("t", 0): 60, ("t", 1): 10}

    monkeypatch.setattr(module, "admin_client", lambda _: admin)
    monkeypatch.setattr(module, "first_or_last_offsets", lambda *_: starts)
    monkeypatch.setattr(module, "stable_and_last_offsets", lambda *_: (ends, ends))
    monkeypatch.setattr(CommittedOffsets, "of", committed)
    assert group_positions({}, ["refused", "g"], ["t", "other"]) == [
        GroupPosition("refused", "", 0, 0, "no right"), GroupPosition("g", "t", 70, 60)
    ]  # fmt: skip
