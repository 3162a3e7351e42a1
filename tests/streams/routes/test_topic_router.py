"""Which topic, key and value a routed record gets, and which records get none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from streams.routes.model import Routes
from streams.routes.topic_router import TopicRecords, TopicRouter
from tests.enrich.flows import make_batch, make_cluster

COUNTED: Counter[tuple[str, str]] = Counter()


def make_router(existing: tuple[str, ...] = (), **kafka: Any) -> TopicRouter:
    COUNTED.clear()
    file = {"version": 1, "routes": [{"name": "r", "outputs": [{"kafka": kafka}]}]}
    routes = msgspec.convert(file, Routes)
    return TopicRouter(
        routes, {"p.flows"}, existing, lambda route, outcome, count: COUNTED.update({(route, outcome): count})
    )


def send(made: TopicRouter, *verdicts: dict[str, Any]) -> list[TopicRecords]:
    return list(made.route(Enricher(make_cluster()).records(merge(make_batch(*verdicts)))))


def test_a_namespace_gets_a_topic_only_from_the_list_up_to_the_limit_and_never_one_of_ours() -> None:
    made = make_router(topic="p.{namespace}", namespaces=["sh*", "gone", "flows"], limit=1)
    [sending] = send(made, {}, {"endpoint": 8}, {"endpoint": 99}, {})
    assert (sending.topic.name, len(sending.records.values)) == ("p.shop", 2)
    assert COUNTED == {("r", "routed"): 2, ("r", "limit"): 1, ("r", "no_namespace"): 1}
    [sending] = send(make_router(topic="p.{namespace}", namespaces="gone"), {}, {"endpoint": 8})
    assert sending.topic.name == "p.gone"
    assert COUNTED == {("r", "routed"): 1, ("r", "not_allowed"): 1}


def test_topics_that_are_there_count_against_the_limit() -> None:
    made = make_router(("p.shop", "p.flows", "other"), topic="p.{namespace}", namespaces="*", limit=1)
    assert [one.topic.name for one in send(made, {"endpoint": 8}, {})] == ["p.shop"]
    assert COUNTED == {("r", "routed"): 1, ("r", "limit"): 1}


def test_lines_of_one_key_are_one_record_that_a_broker_takes() -> None:
    [sending] = send(make_router(topic="t", format="lines"), *({} for _ in range(2000)))
    assert set(sending.records.keys) == {b"n1"}
    assert 1 < len(sending.records.values) < 6
    assert all(len(value) < 600_000 for value in sending.records.values)
    assert b"\n".join(sending.records.values).count(b"\n") == 1999
    [sending] = send(make_router(topic="t", format="lines", key="pod"), {}, {"endpoint": 8}, {})
    assert list(sending.records.keys) == [b"shop/web-1", b"gone/old-b"]
    assert [value.count(b"\n") for value in sending.records.values] == [1, 0]


def test_a_record_has_the_pods_key_unless_it_says_otherwise() -> None:
    for key, expected in ((None, b"shop/web-1"), ("pod", b"shop/web-1"), ("namespace", b"shop"), ("none", None)):
        [sending] = send(make_router(topic="t", key=key), {})
        assert sending.records.keys == [expected]
