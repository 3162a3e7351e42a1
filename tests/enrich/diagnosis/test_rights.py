"""What a diagnosis says about answers of Kafka that a broker in good health does not give."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.diagnosis import rights
from enrich.diagnosis.protocol import NO_ERROR, Broker, Described
from enrich.diagnosis.rights import Needs, causes

BROKER = Broker(1, "127.0.0.1", 9092)


class Answers:
    """A connection to a broker, which answers with these codes."""

    def __init__(self, coordinator: int, group: int) -> None:
        self._coordinator, self._group = coordinator, group

    def metadata(self, _topics: list[str]) -> tuple[list[Broker], dict[str, Described]]:
        return [BROKER], {}

    def find_coordinator(self, _key: str, *, transaction: bool = False) -> tuple[int, Broker]:
        del transaction
        return self._coordinator, BROKER

    def describe_group(self, _group: str) -> Described:
        return Described(self._group, 0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("coordinator", "group", "code"),
    [
        (15, NO_ERROR, "COORDINATOR_NOT_AVAILABLE"),
        (NO_ERROR, 14, "LOAD_IN_PROGRESS"),
        (NO_ERROR, 16, "NOT_COORDINATOR"),
    ],
)
def test_a_group_without_a_broker_that_answers_for_it_is_named(
    monkeypatch: pytest.MonkeyPatch, coordinator: int, group: int, code: str
) -> None:
    monkeypatch.setattr(rights, "connect", lambda *_: Answers(coordinator, group))
    connection: dict[str, Any] = {"bootstrap.servers": "127.0.0.1:9092"}
    (found,) = causes(connection, Needs(groups=frozenset({"g"})))
    assert found.text.startswith("no broker answers for the group g (")
    assert code in found.text
    assert "__consumer_offsets" in found.text
    assert (found.about, found.passes) == ("g", True)


def test_transactional_ids_without_a_broker_that_answers_for_them_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "connect", lambda *_: Answers(15, NO_ERROR))
    (found,) = causes({"bootstrap.servers": "127.0.0.1:9092"}, Needs(transactions=frozenset({"t."})))
    assert found.text.startswith("no broker answers for the transactional ids t. (COORDINATOR_NOT_AVAILABLE)")
    assert "__transaction_state" in found.text
    assert (found.about, found.passes) == ("t.", True)
