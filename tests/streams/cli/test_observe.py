"""Which flows `weir observe` shows, and how; no Kafka."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from rich.console import Console

from enrich.wire.flow import Flow, decode_flow
from streams.cli.filters import Filters
from streams.cli.observe import (
    Selection,
    Shown,
    last_matching,
    last_of_all,
    parse_since,
    read_range,
    since_matching,
    unix_ms,
)
from streams.cli.table import FlowTable, flow_cells
from streams.kafka.records import Record

RECORD: dict[str, Any] = {
    "connection": {
        "src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": 8080, "protocol": "tcp",
        "direction": "egress",
    },
    "disposition": "allow", "reason": "policy", "count": 1, "id": "r-1",
    "policies": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "web-allow-api"}], "isolated_by": [],
    "src": {"pod_name": "web-0", "namespace": "shop", "labels": {"app": "web"}},
    "dest": {"pod_name": "api-0", "namespace": "back", "labels": {"app": "api", "tier": "1"}},
    "dialled": {"ip": "10.96.0.1", "port": 80}, "timestamp": "2026-11-24T16:27:28.838398086Z",
    "last_timestamp": "2026-11-24T16:27:28.838000000Z", "node_name": "n1", "cluster": "c1", "schema": 1,
}  # fmt: skip


def make_value(**changes: Any) -> bytes:
    return orjson.dumps({**RECORD, **changes})


def make_flow(**changes: Any) -> Flow:
    return decode_flow(make_value(**changes))


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, True),
        ({"namespaces": ["back"]}, True),
        ({"namespaces": ["other"]}, False),
        ({"namespaces": ["other", "sho*"]}, True),
        ({"pods": ["api-0"]}, True),
        ({"pods": ["shop/api-0"]}, False),
        ({"pods": ["back/api-*"]}, True),
        ({"sources": ["web-0"]}, True),
        ({"sources": ["api-0"]}, False),
        ({"sources": ["10.0.0.1"]}, True),
        ({"destinations": ["10.0.0.1"]}, False),
        ({"destinations": ["back/*"]}, True),
        ({"verdicts": ["deny", "audit"]}, False),
        ({"verdicts": ["allow"]}, True),
        ({"directions": ["ingress"]}, False),
        ({"ports": [8080]}, True),
        ({"ports": [80]}, True),
        ({"ports": [40000]}, False),
        ({"protocols": ["udp"]}, False),
        ({"labels": ["tier"]}, True),
        ({"labels": ["app=api"]}, True),
        ({"labels": ["app=db"]}, False),
        ({"policies": ["web-allow-api"]}, True),
        ({"policies": ["shop/web-*"]}, True),
        ({"policies": ["back/web-*"]}, False),
        ({"reasons": ["node", "policy"]}, True),
        ({"reasons": ["node"]}, False),
        ({"except_reasons": ["node"]}, True),
        ({"except_reasons": ["node", "policy"]}, False),
        ({"namespaces": ["shop"], "verdicts": ["deny"]}, False),
    ],
)
def test_filters(fields: dict[str, Any], shown: bool) -> None:
    assert Filters(**fields).match(make_flow()) is shown


def test_a_policy_that_isolates_is_found_too() -> None:
    denied = make_flow(policies=[], isolated_by=RECORD["policies"])
    assert Filters(policies=["web-allow-api"]).match(denied)


def test_a_pattern_does_not_fit_what_a_flow_does_not_have() -> None:
    bare = make_flow(connection={"direction": "ingress"}, src={}, dest={}, policies=[])
    everything = Filters(["a"], ["a"], ["a"], ["a"], ["deny"], ["egress"], [1], ["tcp"], ["a"], ["a"])
    assert not everything.match(bare)
    assert Filters().match(bare)
    of_names = (
        Filters(namespaces=["*"]), Filters(pods=["*"]), Filters(sources=["*"]), Filters(destinations=["*"]),
        Filters(labels=["*"]), Filters(policies=["*"]),
    )  # fmt: skip
    for filters in of_names:
        assert not filters.match(bare), filters


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        ({}, ("16:27:28.838", "egress", "shop/web-0", "back/api-0", "tcp/8080", "allow", "shop/web-allow-api")),
        ({"count": 9}, ("allow x9",)),
        ({"policies": [], "isolated_by": RECORD["policies"]}, ("isolated by shop/web-allow-api",)),
        ({"policies": [], "reason": "no_policy"}, ("no policy",)),
        ({"dest": {"instance": "10.0.0.2"}}, ("10.0.0.2",)),
        ({"dest": {"node_name": "n1"}}, ("10.0.0.2 (n1)",)),
        ({"connection": {"direction": "egress"}, "src": {}}, ("-",)),
        ({"connection": {"protocol": "icmp", "direction": "egress"}, "icmp": {"type": 8, "code": 0}}, ("icmp/8",)),
        ({"connection": {"protocol": "47", "direction": "egress"}}, ("47",)),
    ],
)
def test_cells(change: dict[str, Any], cells: tuple[str, ...]) -> None:
    assert set(cells) <= set(flow_cells(make_flow(**change)))


def test_the_table_has_one_heading_and_its_columns_only_grow() -> None:
    out = io.StringIO()
    table = FlowTable(Console(file=out, highlight=False))
    short = make_flow()
    long = make_flow(src={"pod_name": "a-pod-with-a-very-long-name-0123456789", "namespace": "shop"})
    for flow in (short, long, short):
        table.write(Shown(flow, b""))
    heading, before, wide, after = out.getvalue().splitlines()
    assert heading.startswith("TIME")
    assert wide.index("back/api-0") == after.index("back/api-0") > before.index("back/api-0")
    assert not any(line.endswith(" ") for line in (heading, before, wide, after))


def test_only_the_time_of_another_day_has_its_date() -> None:
    out = io.StringIO()
    table = FlowTable(Console(file=out, highlight=False))
    table.write(Shown(make_flow(), b""))
    table.write(Shown(make_flow(timestamp=f"{datetime.now(UTC):%Y-%m-%d}T00:00:00.000000000Z"), b""))
    _, other_day, today = out.getvalue().splitlines()
    assert other_day.startswith("2026-11-24 16:27:28.838  egress")
    assert today.startswith("00:00:00.000 ")


def test_since() -> None:
    now = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    assert parse_since("90s", now) == now - timedelta(seconds=90)
    assert parse_since("5m", now) == now - timedelta(minutes=5)
    assert parse_since("1.5h", now) == now - timedelta(minutes=90)
    assert parse_since("3d", now) == now - timedelta(days=3)
    assert parse_since("2026-11-24T11:00:00Z", now) == now - timedelta(hours=1)
    assert parse_since("2026-11-24T11:00:00", now) == now - timedelta(hours=1)
    assert parse_since("2026-11-24T12:00:00+01:00", now) == now - timedelta(hours=1)
    for wrong in ("", "5", "m", "-5m", "yesterday", "1.2.3s"):
        with pytest.raises(ValueError, match="neither a duration"):
            parse_since(wrong, now)
    for far in ("999999999d", "99999999999999999999s", f"{'9' * 400}s", "0001-01-01T00:00:00+23:59"):
        with pytest.raises(ValueError, match="is too far away"):
            parse_since(far, now)


def test_a_time_before_1970_is_not_one_of_kafkas_special_offsets() -> None:
    assert unix_ms(datetime(1969, 12, 31, 23, 59, 59, 998_000, tzinfo=UTC)) == 0
    assert unix_ms(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)) == 1000


class FakeTopic:
    """Two partitions of records, given out a few at a time."""

    def __init__(self, counts: Mapping[int, int], first: int = 0) -> None:
        self.first, self.counts = first, counts
        self.queue: list[Record] = []

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {partition: (self.first, count) for partition, count in self.counts.items()}

    def start(self, offsets: Mapping[int, int]) -> None:
        self.queue = [
            self._record(partition, offset)
            for partition, start in offsets.items()
            # One that was written since the bounds were asked comes too.
            for offset in range(max(start, self.first), self.counts[partition] + 1)
        ]

    def take(self, most: int, _wait_s: float) -> list[Record]:
        taken, self.queue = self.queue[: min(most, 3)], self.queue[min(most, 3) :]
        return taken

    def ended(self) -> frozenset[int]:
        return frozenset()

    def at_time(self, _timestamp_ms: int) -> dict[int, int]:
        return dict.fromkeys(self.counts, self.first)

    def _record(self, partition: int, offset: int) -> Record:
        verdict = "deny" if offset % 10 == 0 else "allow"
        value = make_value(id=f"p{partition}-{offset}", disposition=verdict, timestamp=f"{offset:05}.{partition}")
        return Record(partition, offset, b"", value, 0)


def test_a_range_ends_where_the_topic_ended_when_it_was_asked() -> None:
    topic = FakeTopic({0: 5, 1: 8, 2: 0})
    found = [(r.partition, r.offset) for r in read_range(topic, {0: 3, 1: 0, 2: 0}, {0: 5, 1: 8, 2: 0})]
    assert found == [(0, 3), (0, 4), *((1, offset) for offset in range(8))]


def test_a_range_that_retention_removed_ends_too() -> None:
    topic = FakeTopic({0: 8}, first=9)
    assert list(read_range(topic, {0: 0}, {0: 8})) == []


def test_the_last_that_fit_are_found_however_far_back() -> None:
    topic = FakeTopic({0: 200, 1: 200})
    found = last_matching(topic, Filters(verdicts=["deny"]), 5)
    assert [shown.flow.id for shown in found] == ["p1-170", "p0-180", "p1-180", "p0-190", "p1-190"]
    assert len(last_matching(topic, Filters(verdicts=["deny"]), 1000)) == 40
    assert last_matching(topic, Filters(), 0) == []


def test_a_selection_drops_repeats_and_what_is_no_flow() -> None:
    selection = Selection(Filters())
    value = make_value(later={"a": 1})
    assert selection.pick(value) == Shown(decode_flow(value), value)
    assert selection.pick(value) is None
    assert selection.pick(b"{") is None
    assert selection.pick(b"[]") is None
    assert selection.pick(b'{"id": "r-2"}') is None


class Values(FakeTopic):
    """One partition with given records, of which the last offset is the mark of a transaction."""

    def __init__(self, *values: bytes) -> None:
        super().__init__({0: len(values) + 1})
        self.values = values

    def start(self, offsets: Mapping[int, int]) -> None:
        self.queue = [Record(0, offset, b"", self.values[offset], 0) for offset in range(offsets[0], len(self.values))]

    def ended(self) -> frozenset[int]:
        return frozenset() if self.queue else frozenset({0})


def at(time: str, number: int) -> bytes:
    return make_value(timestamp=f"2026-11-24T{time}.000000000Z", id=f"r-{number}")


def test_since_goes_by_the_records_own_time_over_all_topics() -> None:
    flows = Values(at("11:00:05", 3), at("10:59:59", 0), at("11:00:00", 1), b"{")
    denied = Values(at("11:00:03", 2), at("11:00:05", 3))
    ends = [{0: 5}, {0: 3}]
    found = list(since_matching([flows, denied], ends, Filters(), datetime(2026, 11, 24, 11, tzinfo=UTC)))
    assert [shown.flow.id for shown in found] == ["r-1", "r-2", "r-3"]
    assert found[1].value == denied.values[0]


def test_the_last_are_completed_from_the_topic_that_keeps_denies_for_longer() -> None:
    flows, denied = Values(at("11:00:03", 3)), Values(at("11:00:01", 1), at("11:00:02", 2), at("11:00:03", 3))
    assert [shown.flow.id for shown in last_of_all([flows, denied], Filters(), 2)] == ["r-2", "r-3"]
    assert [shown.flow.id for shown in last_of_all([flows, denied], Filters(), 1)] == ["r-3"]
