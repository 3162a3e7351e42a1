"""Which flows `weir observe` shows, and how; no Kafka."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from rich.console import Console

from enrich.wire.flow import Flow, decode_flow
from streams.cli.table import FlowTable, flow_cells
from streams.kafka.ranges import read_range, read_runs
from streams.kafka.records import Record, Run
from streams.observing.choice import Choice
from streams.observing.filters import Filters
from streams.observing.observe import (
    Selection,
    Shown,
    Window,
    last_matching,
    last_of_all,
    parse_since,
    since_matching,
    since_rows,
    unix_ms,
)

RECORD: dict[str, Any] = {
    "connection": {
        "src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": 8080, "protocol": "tcp",
        "direction": "egress",
    },
    "disposition": "allow", "reason": "policy", "count": 1, "id": "r-1",
    "policies": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "web-allow-api"}], "isolated_by": [],
    "src": {
        "pod_name": "web-0", "namespace": "shop", "labels": {"app": "web"}, "workload_kind": "Deployment",
        "workload_name": "web",
    },
    "dest": {
        "pod_name": "api-0", "namespace": "back", "labels": {"app": "api", "tier": "1"},
        "workload_kind": "StatefulSet", "workload_name": "api",
    },
    "dialled": {"ip": "10.96.0.1", "port": 80, "service": {"namespace": "back", "name": "api"}},
    "timestamp": "2026-11-24T16:27:28.838398086Z",
    "last_timestamp": "2026-11-24T16:27:28.838000000Z", "node_name": "n1", "cluster": "c1", "schema": 1,
}  # fmt: skip
EVERYTHING = Choice(Filters())


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
        ({"subjects": ["web-0"]}, True),
        ({"subjects": ["shop/web-*"]}, True),
        ({"subjects": ["back/api-0"]}, False),
        ({"workloads": ["web"]}, True),
        ({"workloads": ["deployment/w*"]}, True),
        ({"workloads": ["statefulset/web"]}, False),
        ({"workloads": ["api"]}, True),
        ({"services": ["api"]}, True),
        ({"services": ["back/a*"]}, True),
        ({"services": ["shop/api"]}, False),
        ({"services": ["shop/ledger"]}, False),
        ({"nodes": ["n1"]}, True),
        ({"nodes": ["n*"]}, True),
        ({"nodes": ["n2"]}, False),
        ({"networks": ["10.0.0.0/31"]}, True),
        ({"networks": ["10.0.0.2"]}, True),
        ({"networks": ["10.0.0.4/30"]}, False),
        ({"networks": ["fd00::/8"]}, False),
        ({"ids": ["r-1"]}, True),
        ({"ids": ["r-2", "r-3"]}, False),
        ({"namespaces": ["shop"], "verdicts": ["deny"]}, False),
    ],
)
def test_filters(fields: dict[str, Any], shown: bool) -> None:
    value = make_value()
    assert Filters(**fields).match(make_flow()) is shown
    required = Choice(Filters(**fields))
    assert (required.may_match(value) and required.match(make_flow(), value)) is shown
    if len(fields) == 1:
        excluded = Choice(Filters(), Filters(**fields))
        assert excluded.may_match(value)
        assert excluded.match(make_flow(), value) is not shown
        assert not Choice(Filters(**fields), Filters(**fields)).match(make_flow(), value)


V6 = {**RECORD["connection"], "src_ip": "fd00::1", "dest_ip": "fd00::2"}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"networks": ["fd00::/64"]}, True),
        ({"networks": ["fd00::2"]}, True),
        ({"networks": ["fd01::/64"]}, False),
        ({"networks": ["0.0.0.0/0"]}, False),
        ({"sources": ["fd00::/127"]}, True),
        ({"subjects": ["shop/web-0"]}, True),
        ({"workloads": ["deployment/web"]}, True),
        ({"services": ["back/api"]}, True),
    ],
)
def test_filters_of_the_other_family(fields: dict[str, Any], shown: bool) -> None:
    flow, value = make_flow(connection=V6), make_value(connection=V6)
    assert Choice(Filters(**fields)).match(flow, value) is shown
    assert Choice(Filters(), Filters(**fields)).match(flow, value) is not shown


def test_the_service_of_an_address_outside_is_found() -> None:
    outside = make_flow(dest={"instance": "192.0.2.1", "service": {"namespace": "shop", "name": "ledger"}})
    assert Filters(services=["shop/ledger"]).match(outside)


def test_the_subject_is_the_end_whose_policy_decided() -> None:
    ingress = make_flow(connection={**RECORD["connection"], "direction": "ingress"})
    assert Filters(subjects=["back/api-0"]).match(ingress)
    assert not Filters(subjects=["shop/web-0"]).match(ingress)


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({"subjects": ["shop/web-0"]}, [b"shop/web-0"]),
        ({"subjects": ["shop/web-0", "back/api-0"]}, [b"shop/web-0", b"back/api-0"]),
        ({"subjects": ["web-0"]}, None),
        ({"subjects": ["shop/web-*"]}, None),
        ({"subjects": ["shop/web-0", "shop/web-*"]}, None),
        ({"pods": ["shop/web-0"]}, None),
        ({"sources": ["shop/web-0"]}, None),
        ({"sources": ["shop/web-0"], "directions": ["egress"]}, [b"shop/web-0"]),
        ({"sources": ["shop/web-0"], "directions": ["ingress"]}, None),
        ({"sources": ["shop/web-0"], "directions": ["egress", "ingress"]}, None),
        ({"destinations": ["back/api-0"], "directions": ["ingress"]}, [b"back/api-0"]),
        ({"sources": ["10.0.0.1"], "directions": ["egress"]}, None),
        ({"sources": ["10.0.0.0/8"], "directions": ["egress"]}, None),
        ({"sources": ["fd00::/8"], "directions": ["egress"]}, None),
        ({}, None),
    ],
)
def test_the_keys_of_the_records_are_known_if_the_subjects_are(fields: dict[str, Any], keys: Any) -> None:
    assert Choice(Filters(**fields)).subject_keys() == keys


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

    def take_runs(self, most: int, wait_s: float) -> list[Run]:
        return [Run(one.partition, [one.offset], [one.timestamp_ms], [one.value]) for one in self.take(most, wait_s)]

    def skip(self, partitions: Collection[int]) -> None:
        self.queue = [record for record in self.queue if record.partition not in partitions]

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
    assert list(read_runs(topic, {0: 0}, {0: 8})) == []


class Late(FakeTopic):
    """Runs of 10,000 records, of which those from the 12,000th on are too late."""

    def take_runs(self, most: int, wait_s: float) -> list[Run]:
        taken, self.queue = self.queue[:10_000], self.queue[10_000:]
        return [Run(0, [one.offset for one in taken], [one.offset for one in taken], [b""] * len(taken))]

    def _record(self, partition: int, offset: int) -> Record:
        return Record(partition, offset, b"", b"", 0)


def test_runs_are_what_a_range_has() -> None:
    ends = {0: 5, 1: 8, 2: 0}
    found = [
        (run.partition, *run.offsets) for run in read_runs(FakeTopic({0: 5, 1: 8, 2: 0}), {0: 3, 1: 0, 2: 0}, ends)
    ]
    assert found == [(0, 3), (0, 4), *((1, offset) for offset in range(8))]
    left_early: set[int] = set()
    taken = [len(run.values) for run in read_runs(Late({0: 50_000}), {0: 0}, {0: 29_000})]
    assert taken == [10_000, 10_000, 9_000], "a run that goes on behind the end is cut"
    taken = [
        len(run.values) for run in read_runs(Late({0: 50_000}), {0: 0}, {0: 29_000}, 11_999, left_early=left_early)
    ]
    assert (taken, left_early) == ([10_000, 10_000, 2_000], {0})


def test_the_last_that_fit_are_found_however_far_back() -> None:
    topic = FakeTopic({0: 200, 1: 200})
    found = last_matching(topic, Choice(Filters(verdicts=["deny"])), 5)
    assert [shown.flow.id for shown in found] == ["p1-170", "p0-180", "p1-180", "p0-190", "p1-190"]
    assert len(last_matching(topic, Choice(Filters(verdicts=["deny"])), 1000)) == 40
    assert last_matching(topic, EVERYTHING, 0) == []


def test_a_selection_drops_repeats_and_what_is_no_flow() -> None:
    selection = Selection(EVERYTHING)
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
    found = list(since_matching([flows, denied], ends, EVERYTHING, Window(datetime(2026, 11, 24, 11, tzinfo=UTC))))
    assert [shown.flow.id for shown in found] == ["r-1", "r-2", "r-3"]
    assert found[1].value == denied.values[0]


def test_the_last_are_completed_from_the_topic_that_keeps_denies_for_longer() -> None:
    flows, denied = Values(at("11:00:03", 3)), Values(at("11:00:01", 1), at("11:00:02", 2), at("11:00:03", 3))
    assert [shown.flow.id for shown in last_of_all([flows, denied], EVERYTHING, 2)] == ["r-2", "r-3"]
    assert [shown.flow.id for shown in last_of_all([flows, denied], EVERYTHING, 1)] == ["r-3"]


def test_until_is_the_first_time_that_is_not_shown() -> None:
    flows = Values(at("11:00:00", 1), at("11:00:09", 3), at("11:00:05", 2))
    window = Window(datetime(2026, 11, 24, 11, tzinfo=UTC), datetime(2026, 11, 24, 11, 0, 5, tzinfo=UTC))
    assert [shown.flow.id for shown in since_matching([flows], [{0: 4}], EVERYTHING, window)] == ["r-1"]
    later = window._replace(until=datetime(2026, 11, 24, 11, 0, 6, tzinfo=UTC))
    assert [shown.flow.id for shown in since_matching([flows], [{0: 4}], EVERYTHING, later)] == ["r-1", "r-2"]


def test_rows_are_sorted_and_repeats_are_dropped() -> None:
    flows, denied = Values(at("11:00:05", 3), at("11:00:00", 1)), Values(at("11:00:05", 3), at("11:00:03", 2))
    window = Window(datetime(2026, 11, 24, 11, tzinfo=UTC))
    rows = since_rows([flows, denied], [{0: 3}, {0: 3}], EVERYTHING, window, lambda flow: [flow.id, flow.count])
    assert list(rows) == [["r-1", 1], ["r-2", 1], ["r-3", 1]]


class Times(Values):
    """One partition of records with these times of Kafka's."""

    def __init__(self, *times_ms: int) -> None:
        super().__init__(*[b""] * len(times_ms))
        self.times_ms = times_ms

    def start(self, offsets: Mapping[int, int]) -> None:
        self.queue = [
            Record(0, offset, b"", b"", self.times_ms[offset]) for offset in range(offsets[0], len(self.times_ms))
        ]


def test_a_partition_is_left_where_its_records_have_become_later_for_good() -> None:
    early, late = 1_000, 9_000
    # A clock that is ahead makes a few late records among early ones.
    topic = Times(*[early] * 10, *[late] * 9_999, early, *[late] * 10_000, *[early] * 5)
    read = [record.offset for record in read_range(topic, {0: 0}, {0: 20_025}, 5_000)]
    assert 10_009 in read, "9,999 late ones in a row do not end the range"
    assert max(read) == 20_009
    left: set[int] = set()
    assert len(list(read_range(topic, {0: 0}, {0: 20_025}, left_early=left))) == 20_015
    assert not left
    assert len(list(read_range(topic, {0: 0}, {0: 20_025}, 5_000, left_early=left))) == 20_010
    assert left == {0}
