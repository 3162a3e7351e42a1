"""Which topics the enricher cannot begin without: it goes on where those of a later version are not there yet."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from enrich.runtime.process import Exit
from enrich.wire.topics import Topic
from streams.kafka.topics import NoRightError
from streams.roles.enrich import _prepare_topics
from streams.settings import Settings


class _OwnTopics:
    def __init__(self) -> None:
        self.needed: set[str] = set()

    def prepare(self, topics: Iterable[Topic]) -> bool:
        self.needed |= {topic.name for topic in topics}
        return True


def test_topics_that_an_earlier_version_did_not_have_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def without_right(_connection: Any, topics: Iterable[Topic], *_: Any) -> bool:
        tried.extend(topic.name for topic in topics)
        raise NoRightError("the topic is not there, and cannot be created", Exit.KAFKA)

    monkeypatch.setattr("streams.roles.enrich.prepare_topics", without_right)
    own, settings = _OwnTopics(), Settings(kafka="127.0.0.1:1", prefix="p")
    assert _prepare_topics(settings, own, threading.Event())  # type: ignore[arg-type]
    later = {"p.checkpoints", "p.flows.ended", "p.journal", "p.pairs"}
    assert {"p.verdicts.raw", "p.flows", "p.flows.denied", "p.status", "p.dead"} <= own.needed
    assert not own.needed & later
    assert set(tried) <= later
    assert {"p.flows.ended", "p.journal"} <= set(tried)


def test_no_topic_of_a_journal_is_made_if_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: set[str] = set()

    def take(_connection: Any, topics: Iterable[Topic], *_: Any) -> bool:
        made.update(topic.name for topic in topics)
        return True

    monkeypatch.setattr("streams.roles.enrich.prepare_topics", take)
    own, settings = _OwnTopics(), Settings(kafka="127.0.0.1:1", prefix="p", journal_days=0)
    assert _prepare_topics(settings, own, threading.Event())  # type: ignore[arg-type]
    assert "p.flows" in own.needed
    assert "p.journal" not in made | own.needed
