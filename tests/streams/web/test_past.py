"""Why a record was decided so: what the page reads for it fits in the memory of the page."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import msgspec
import pytest
import yaml

from enrich.wire.flow import NamedPolicy
from enrich.wire.journal import JournalEntry
from streams.journal.reading import within_memory
from streams.observing.record_search import Found
from streams.settings import Settings
from streams.web import past
from streams.web.past import PastQuestions, _named_policies
from streams.web.viewers import Everybody
from tests.enrich.history.advice.policies import network_policy
from tests.enrich.history.advice.shop import view
from tests.streams.web.records import make_flow


def test_a_journal_that_does_not_fit_is_said_in_place_of_an_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty rules are small on Kafka and large in memory, and anybody who may make a policy can make many."""
    rules = b'{"spec":{"ingress":[' + b",".join([b"{}"] * 100_000) + b"]}}"
    read = 0

    def load_past(*args: Any) -> None:
        nonlocal read
        entry = JournalEntry(cluster="c1", kind="NetworkPolicy", seen_ns=1, object=msgspec.Raw(rules))
        for _ in within_memory(repeat(entry, 10_000), "p.journal", *args[5:]):
            read += len(rules)

    flow = make_flow(1)
    monkeypatch.setattr(past, "find_record", lambda *_: Found(flow, b""))
    monkeypatch.setattr(past, "load_past", load_past)
    questions = PastQuestions(Settings(), lambda: {"bootstrap.servers": ""})
    answer = questions.explanation(flow.id, flow.timestamp, Everybody())
    assert "more versions than fit in memory (192 MiB)" in answer["why"]
    assert answer["why"].endswith(": weir explain may take more")
    assert read < 16 << 20


def test_the_policies_of_a_record_are_those_of_its_time() -> None:
    spec = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]}
    there = network_policy("db", spec)
    whole, gone = (NamedPolicy(kind="NetworkPolicy", namespace="shop", name=name) for name in ("db", "gone"))
    flow = make_flow(1, policies=(), isolated_by=(whole, gone))
    (found,) = _named_policies(view(policies={there.key: there}), flow)
    assert found["name"] == "shop/db"
    assert yaml.safe_load(found["yaml"])["spec"] == spec
