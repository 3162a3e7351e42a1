"""Which topic, key and value a routed record gets, and which records get none."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import msgspec
import orjson
import pytest

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from streams.forms import FORMS, Form, converter
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


@pytest.mark.parametrize("form", FORMS)
def test_a_topic_gets_the_form_of_its_output_with_the_keys_and_times_of_the_records(form: Form) -> None:
    verdicts: list[dict[str, Any]] = [{}, {"endpoint": 8}, {"endpoint": 99}]
    [plain], [sending] = (send(make_router(topic="t", form=one), *verdicts) for one in ("record", form))
    convert = converter(form)
    assert convert is not None
    assert sending.records == plain.records._replace(values=[convert(value) for value in plain.records.values])
    [lines] = send(make_router(topic="t", form=form, format="lines", key="none"), *verdicts)
    assert b"\n".join(lines.records.values) == b"\n".join(sending.records.values)


def test_a_record_that_cannot_have_the_form_is_counted_and_stops_no_other() -> None:
    made = make_router(topic="t", form="ecs")
    records = Enricher(make_cluster()).records(merge(make_batch({}, {}, {})))
    values = list(records.values)
    values[1] = values[1].replace(b'"timestamp":"20', b'"timestamp":"22')
    [sending] = made.route(dataclasses.replace(records, values=values))
    assert [orjson.loads(value)["event"]["id"] for value in sending.records.values] == [
        orjson.loads(values[place])["id"] for place in (0, 2)
    ]
    assert len(sending.records.keys) == len(sending.records.times_ms) == len(sending.records.owners) == 2
    assert COUNTED == {("r", "routed"): 2, ("r", "no_form"): 1}
    assert not list(made.route(dataclasses.replace(records, values=[values[1]] * 3)))
