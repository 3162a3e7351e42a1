"""From records to deltas: groups, amounts and distinct values, repeats, and the encoding of deltas."""

from __future__ import annotations

from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest

from enrich.index.cluster import Cluster
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.batch import INGRESS, decode_batch, encode_batch
from enrich.wire.flow import Flow, decode_flow
from streams.alerts.counting import ParsedFlow, RecordCounter
from streams.alerts.deduplicate import Deduplicator
from streams.alerts.deltas import Delta, DeltaError, decode, encode, partition_of, version_of
from streams.alerts.fields import FLOW_FIELDS, flow_field
from tests.kafka.batches import make_header, make_rows
from tests.streams.alerts.makers import FLOW_SCHEMA, T0, flow, loss, rule


def typed(record: dict[str, Any]) -> Flow:
    return decode_flow(orjson.dumps(record))


def count(counter: RecordCounter, record: dict[str, Any]) -> None:
    counter.count_flow(counter.read_flow(orjson.dumps(record)))


def test_the_makers_records_are_records() -> None:
    jsonschema.validate(flow(), FLOW_SCHEMA, cls=jsonschema.Draft202012Validator)


def test_a_delta_has_amounts_by_second_and_the_last_second_of_each_value() -> None:
    counter = RecordCounter([rule(above={"threshold": 1, "distinct": ["port"]}), rule(above={"threshold": 1})])
    count(counter, flow(T0, count=3))
    count(counter, flow(T0 + 2.5, count=4))
    count(counter, flow(T0, port=80))
    values, plain = counter.drain()
    assert plain.amounts == values.amounts == {T0: 4, T0 + 2: 4}
    assert sorted(values.distinct.values()) == [T0, T0 + 2]
    assert plain.distinct == {}
    assert plain.group == ["c1", "shop"]
    assert counter.drain() == []


def test_records_that_do_not_match_or_are_excepted_are_not_counted() -> None:
    counter = RecordCounter(
        [rule(above={"threshold": 1}, match={"port": 5432}, **{"except": {"peer": {"namespace": "monitoring"}}})]
    )
    count(counter, flow(port=80))
    count(counter, flow(dest="monitoring/agent"))
    assert counter.drain() == []
    count(counter, flow())
    assert len(counter.drain()) == 1


FIELDS = {
    "cluster": "c1", "verdict": "deny", "reason": "default_deny", "node": "n1", "direction": "egress",
    "protocol": "tcp", "port": "5432", "policy": "NetworkPolicy shop/default-deny", "service": "",
    "src.name": "shop/Deployment/web", "peer.name": "data/Deployment/db", "subject.workload": "Deployment/web",
    "subject.pod": "web-0", "peer.ip": "10.0.0.2", "dest.node": "n1", "src.labels.app": "web", "src.labels.no": "",
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), FIELDS.items())
def test_fields(name: str, text: str) -> None:
    read = flow_field(name)
    assert read is not None
    assert read(typed(flow())) == text


def test_a_field_of_an_end_that_is_not_a_pod() -> None:
    outside = flow()
    outside["dest"] = {"instance": "192.0.2.7"}
    outside["connection"]["dest_ip"] = "192.0.2.7"
    assert [FLOW_FIELDS[f"dest.{name}"](typed(outside)) for name in ("name", "workload", "pod")] == [
        "192.0.2.7",
        "",
        "",
    ]
    outside["dest"] = {"node_name": "n2"}
    assert FLOW_FIELDS["peer.name"](typed(outside)) == "Node/n2"
    bare = flow()
    del bare["src"]["workload_name"], bare["src"]["workload_kind"]
    assert FLOW_FIELDS["src.name"](typed(bare)) == "shop/Pod/web-0"


def test_a_repeat_counts_once() -> None:
    seen, read = Deduplicator(), RecordCounter([]).read_flow
    first, second, other = (read(orjson.dumps(one)) for one in (flow(), flow(), flow(src="shop/api")))
    assert [seen.is_repeat(one) for one in (first, second, other)] == [False, False, False]
    assert [seen.is_repeat(one) for one in (second, first, other)] == [True, True, True]
    assert not seen.is_repeat(read(orjson.dumps(flow())))
    nobody = flow()
    nobody["src"] = {"node_name": "n1"}
    anonymous = read(orjson.dumps(nobody))
    assert [seen.is_repeat(anonymous), seen.is_repeat(anonymous)] == [False, True]


def numbered(number: int, src: str = "shop/web") -> ParsedFlow:
    return RecordCounter([]).read_flow(orjson.dumps({**flow(src=src), "id": f"r1-{number}"}))


def test_a_record_that_was_refused_at_first_and_comes_late_counts() -> None:
    seen = Deduplicator()
    order = [1, 2, 9, 10, 7, 3, 8, 11]
    assert [seen.is_repeat(numbered(number)) for number in order] == [False] * len(order)
    assert all(seen.is_repeat(numbered(number)) for number in order)


@pytest.mark.parametrize("limit", [100_000, 60])
def test_what_is_remembered_has_a_bound_and_one_pods_flood_forgets_its_own(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.alerts.deduplicate._MAX_OF_POD", 40)
    seen = Deduplicator(limit)
    quiet = [numbered(number, "shop/quiet") for number in (5, 9)]
    assert not any(seen.is_repeat(one) for one in quiet)
    flood = [numbered(number) for number in range(1000)]
    assert not any(seen.is_repeat(one) for one in flood)
    assert seen._remembered <= 42
    assert all(seen.is_repeat(one) for one in (*flood, *quiet))
    assert not seen.is_repeat(numbered(7, "shop/quiet"))


def test_the_least_recently_seen_pods_are_evicted_first() -> None:
    seen, read = Deduplicator(limit=10), RecordCounter([]).read_flow
    old = [read(orjson.dumps(flow(src=f"shop/a{number}"))) for number in range(10)]
    for one in (*old, old[0], read(orjson.dumps(flow(src="shop/b")))):
        seen.is_repeat(one)
    assert seen.is_repeat(old[0])
    assert not seen.is_repeat(old[1])


@pytest.mark.parametrize("junk", [b"", b"[]", b"3", b"{}", b'{"id": "x"}', b'{"connection": 3, "last_timestamp": "x"}'])
def test_a_value_that_is_not_a_record_is_a_value_error(junk: bytes) -> None:
    counter = RecordCounter([rule(above={"threshold": 1})])
    with pytest.raises(ValueError):  # noqa: PT011 - every decoder words it differently
        counter.count_flow(counter.read_flow(junk))


def test_status_records_that_do_not_report_a_loss_are_not_counted() -> None:
    counter = RecordCounter([rule(of="lost", group_by=["kind"], above={"threshold": 1})])
    counter.count_status(orjson.dumps(loss(type="heartbeat")))
    assert counter.drain() == []
    counter.count_status(orjson.dumps(loss(type="expired", batches=3, reason="")))
    (delta,) = counter.drain()
    assert (delta.group, list(delta.amounts.values())) == (["c1", "expired"], [3])
    with pytest.raises(ValueError, match="the type gap must say how much was lost"):
        counter.count_status(orjson.dumps({"type": "gap", "timestamp": "2026-09-21T14:13:19.000000000Z"}))


def test_deltas_are_packed_into_few_records_in_the_partition_of_their_group() -> None:
    counter = RecordCounter([rule(group_by=["port"], above={"threshold": 1, "distinct": ["src.ip"]})])
    for port in range(3000):
        count(counter, flow(port=port))
    deltas = counter.drain()
    sent = list(encode(deltas, 4))
    assert 4 <= len(sent) < 30
    assert all(len(value) < 900_000 for _, value in sent)
    found = [(partition, delta) for partition, value in sent for delta in decode(value)]
    assert sorted(delta.group for _, delta in found) == sorted(delta.group for delta in deltas)
    assert all(partition == partition_of(delta.rule, delta.group, 4) for partition, delta in found)
    assert found[0][1].distinct


@pytest.mark.parametrize("junk", [b"", b"{}", b'{"v":2,"deltas":[]}', b'{"v":1,"deltas":[["a"]]}'])
def test_a_value_that_is_not_deltas_is_a_delta_error(junk: bytes) -> None:
    with pytest.raises(DeltaError):
        decode(junk)


def test_the_version_depends_on_what_is_counted_only() -> None:
    one = rule(above={"threshold": 1})
    assert version_of(one) == version_of(rule(above={"threshold": 9, "window": "5m"}, severity="info"))
    assert version_of(one) != version_of(rule(above={"threshold": 1}, match={"port": 1}))
    assert version_of(one) != version_of(rule(above={"threshold": 1, "count": "records"}))
    assert isinstance(Delta("a", "b", [], {}), Delta)


def test_records_of_a_known_class_are_counted_like_records_that_are_evaluated_one_by_one() -> None:
    """``fast`` evaluates the rules once for each class, ``slow`` for every record of the enricher."""
    rules = [
        rule(name="a", group_by=["src.name", "dest.name", "port", "reason"], above={"threshold": 1}),
        rule(name="b", group_by=["subject.pod"], above={"threshold": 1, "distinct": ["dest.ip", "port"]}),
        rule(name="c", match={"direction": "ingress"}, group_by=["peer.name", "service", "policy"], first={}),
        rule(name="d", group_by=["node", "src.labels.app"], after_change={}),
    ]
    fast, slow = RecordCounter(rules), RecordCounter(rules)
    values = enriched()
    for value in (*values, *values):
        fast.count_flow(fast.read_flow(value))
        slow._classes.clear()
        slow.count_flow(slow.read_flow(value))
    counted = fast.drain()
    assert counted == slow.drain()
    assert len(counted) > 10
    assert 0 < len(fast._classes) < len(values)
    seen = fast.read_flow(values[0])
    assert f"{seen.ring}-{seen.number}" == orjson.loads(values[0])["id"]


def enriched() -> list[bytes]:
    """Return records as the enricher writes them, with different source ports and counts."""
    enricher = Enricher(Cluster(kinds=()))
    rows = make_rows(60, denied=True)
    rows["source_port"] = range(40000, 40060)
    rows["destination_port"] = np.repeat([80, 443, 5432], 20)
    rows["count"] = np.arange(60) % 4 + 1
    rows["verdict"][::7] |= INGRESS
    rows["protocol"][::11] = 1
    batch = decode_batch(encode_batch(make_header(5, 60), rows))
    return [bytes(value) for value in enricher.records(merge(batch)).values]
