"""Counts of pairs from columns, against a slow and plain count over records."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from enrich.history.profile import number_of, profile_of
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.batch import VERDICT, Batch
from enrich.wire.flow import Flow
from enrich.wire.pair import HOUR_NS, PairEnd, PairKey
from enrich.wire.pair_coverage import decode_coverage
from enrich.wire.pair_place import place_of
from enrich.wire.pair_records import decode_counts, decode_names, pairs_of
from streams.kafka.marked_writes import Mark
from streams.metrics.pairs import PairMetrics
from streams.worker import pair_counter, pair_keys, pair_spans
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.pair_counter import SEGMENT_S, PairCounter, starts_of
from streams.worker.pair_keys import Combinations
from streams.worker.pair_limits import MAX_PORTS, MAX_WORLD_PEERS, HourLimits, coarse
from streams.worker.pair_ports import server_ports
from streams.worker.pair_segment import Segment
from tests.enrich.flows import CLOCK, make_batch, make_cluster, rows_strategy

NOW_S = CLOCK / 1e9
NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "": 0}


def numbered(pod: Any, labels: Any, workload: Any) -> str:
    return number_of(profile_of(pod, workload))


def kind_of(key: bytes) -> str:
    place = place_of(key)
    assert place is not None
    return place.kind


class Worker:
    """A counter, an enricher and inputs of one partition."""

    def __init__(self, limit: int = 100_000, since: int = 0) -> None:
        self.registry = CollectorRegistry()
        self.metrics = PairMetrics(self.registry)
        self.counter = PairCounter(limit, self.metrics, lambda: NOW_S)
        self.counter.begin(0, since)
        self.enricher = Enricher(make_cluster(), (), lambda: CLOCK, numbered)
        self._tracker = InFlightTracker(10**9, 10**12, lambda step: step(), lambda *_: None)
        self.written: dict[bytes, bytes] = {}
        """As compaction leaves them."""
        self.flows: list[Flow] = []

    def take(self, offset: int, *batches: Batch) -> list[TrackedInput]:
        inputs = [self._tracker.open(0, offset + place, 0, 0, lambda _: None) for place in range(len(batches))]
        records = self.enricher.records(merge(*batches))
        assert records.columns is not None
        self.counter.count(inputs, records.columns)
        self.flows += [records.columns.flow(place) for place in range(len(records.values))]
        return inputs

    def write(self) -> dict[int, int]:
        write = self.counter.take_write()
        if write is None:
            return {}
        self.written.update(write.records)
        self.counter.written(write)
        return write.marks

    def pairs(self) -> dict[tuple[int, PairKey], tuple[int, ...]]:
        names = {}
        for key, value in self.written.items():
            if kind_of(key) == "names":
                found = decode_names(value)
                names[found.segment, found.chunk] = found
        added: dict[tuple[int, PairKey], tuple[int, ...]] = {}
        for key, value in self.written.items():
            if kind_of(key) == "counts":
                counts = decode_counts(value)
                for pair in pairs_of(names[counts.header.segment, counts.header.chunk], counts):
                    seconds = pair.first_ns // 10**9, pair.last_ns // 10**9
                    assert (pair.hour, pair.key) not in added
                    added[pair.hour, pair.key] = (pair.verdicts, pair.packets, *seconds)
        return added


def end_of(end: Any) -> PairEnd:
    if end.ambiguous:
        return PairEnd(unknown=True)
    if end.pod_name:
        found = make_cluster().addresses.pod_by_uid(end.pod_uid)
        if found is None:
            return PairEnd(namespace=end.namespace, unknown=True)
        workload = make_cluster().workload_of(found)
        return PairEnd(profile=numbered(found, found.labels, workload), namespace=end.namespace, workload=end.workload)
    if end.node_name:
        return PairEnd(node=end.node_name)
    if end.instance:
        return PairEnd(block=f"{end.instance}/{128 if ':' in end.instance else 32}")
    return PairEnd(unknown=True)


def plainly(flows: list[Flow], batches: list[Batch]) -> dict[tuple[int, PairKey], tuple[int, ...]]:
    """Count records one by one."""
    found: dict[tuple[int, PairKey], tuple[int, ...]] = {}
    verdicts = [(batch, verdict) for batch in batches for verdict in batch.verdicts]
    for flow, (batch, verdict) in zip(flows, verdicts, strict=True):
        wall = int(verdict["time_ns"]) + batch.header.clock
        if not NOW_S - 25 * 3600 < wall // 10**9 < NOW_S + 3600:
            continue
        protocol = 0 if flow.aggregated else int(verdict["protocol"])
        key = PairKey(
            subject=end_of(flow.subject), peer=end_of(flow.peer), direction=flow.direction, protocol=protocol,
            port=plain_port(verdict), verdict=flow.disposition, reason=flow.reason,  # type: ignore[arg-type]  # text
            policies=tuple(batch.header.rules.get(str(verdict["rule"]), ())),
            service=flow.dialled.service.path if flow.dialled and flow.dialled.service else "",
        )  # fmt: skip
        hour, first = wall // HOUR_NS, wall // 10**9
        last = min((wall + int(verdict["span_ms"]) * 10**6) // 10**9, hour * 3600 + 65_535)
        before = found.get((hour, key), (0, 0, first, last))
        found[hour, key] = (
            before[0] + 1, before[1] + int(verdict["count"]), min(before[2], first), max(before[3], last)
        )  # fmt: skip
    return found


def plain_port(verdict: Any) -> int:
    protocol, port = int(verdict["protocol"]), int(verdict["destination_port"])
    if verdict["flags"] & 1 or protocol not in {1, 6, 17, 58, 132}:
        return 0
    opens = protocol == 6 and verdict["tcp_flags"] & 0x12 == 0x02
    shown = opens or verdict["reason"] == 11 or verdict["dialled_port"] or verdict["source_port"] == port
    return port if protocol in {1, 58} or port < 32768 or shown else 0


@given(st.lists(rows_strategy, min_size=1, max_size=4))
@settings(max_examples=150, derandomize=True, deadline=None)
def test_columns_count_what_a_plain_count_over_records_counts(rows: list[list[dict[str, Any]]]) -> None:
    worker = Worker()
    batches = [make_batch(*some) for some in rows]

    for tracked in worker.take(0, *batches):
        worker.counter.finish(tracked)
    marks = worker.write()

    assert marks == {0: len(batches)}
    assert worker.pairs() == plainly(worker.flows, batches)


def fresh(*, at_s: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"time_ns": int(at_s * 1e9), **fields}


def totals(worker: Worker) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_, key), (verdicts, *_) in worker.pairs().items():
        found[key.peer.block] += verdicts
    return found


def test_counts_and_mark_end_at_one_offset() -> None:
    worker = Worker()
    first, second, third = worker.take(0, *(make_batch(fresh()) for _ in range(3)))

    worker.counter.finish(first)
    assert worker.write() == {0: 1}
    assert [counted[0] for counted in worker.pairs().values()] == [1]

    worker.counter.finish(second)
    worker.counter.finish(third)
    assert worker.write() == {0: 3}
    assert [counted[0] for counted in worker.pairs().values()] == [3]
    assert worker.write() == {}


def test_what_is_acknowledged_after_the_last_write_of_a_partition_is_left_to_its_next_owner() -> None:
    worker = Worker()
    first, second = worker.take(0, make_batch(fresh()), make_batch(fresh()))
    worker.counter.finish(first)
    last = worker.counter.take_write([0])
    assert last is not None
    assert last.marks == {0: 1}
    worker.counter.finish(second)
    worker.counter.written(last)
    worker.counter.forget([0])

    assert worker.counter.take_write() is None


def test_nothing_is_counted_in_a_segment_of_the_day_before() -> None:
    worker = Worker()
    for offset, later_s in enumerate((0, SEGMENT_S + 1)):
        worker.counter._now = partial(float, NOW_S + later_s)
        (tracked,) = worker.take(offset, make_batch(fresh()))
        worker.counter.finish(tracked)
        if not offset:
            worker.write()  # and then the worker has no partition for a day

    last = worker.counter.take_write()
    assert last is not None
    assert sorted(kind_of(key) for key, _ in last.records) == ["counts", "coverage", "names"], (
        "the names are written once more"
    )


def test_combinations_that_share_a_place_of_the_tables_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LEAST_BITS", "_MOST_BITS"):
        monkeypatch.setattr(pair_keys, name, 2)
    worker = Worker()
    for offset in range(4):
        batch = make_batch(*({**fresh(), "destination_port": 8000 + number} for number in range(40)))
        (tracked,) = worker.take(offset, batch)
        worker.counter.finish(tracked)
    worker.write()

    found = {key.port: counted[0] for (_, key), counted in worker.pairs().items()}
    assert found == dict.fromkeys(range(8000, 8040), 4)


def test_inputs_before_the_mark_are_not_counted() -> None:
    worker = Worker(since=2)

    for tracked in worker.take(0, *(make_batch(fresh()) for _ in range(3))):
        worker.counter.finish(tracked)
    worker.write()

    assert [counted[0] for counted in worker.pairs().values()] == [1]


def test_a_failed_write_is_made_again_with_what_came_meanwhile() -> None:
    worker = Worker()
    first, second = worker.take(0, make_batch(fresh()), make_batch(fresh()))
    worker.counter.finish(first)
    failed = worker.counter.take_write()
    assert failed is not None
    worker.counter.finish(second)
    worker.counter.not_written(failed)

    assert worker.write() == {0: 2}
    assert [counted[0] for counted in worker.pairs().values()] == [2]


def test_what_was_dropped_is_not_counted_later() -> None:
    worker = Worker()
    first, second = worker.take(0, make_batch(fresh()), make_batch(fresh()))
    worker.counter.finish(first)

    worker.counter.abandon()
    worker.counter.begin(0, 2)
    worker.counter.finish(second)
    (third,) = worker.take(2, make_batch(fresh()))
    worker.counter.finish(third)
    worker.write()

    assert [counted[0] for counted in worker.pairs().values()] == [1]


def world(number: int) -> str:
    return f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}"


def test_further_peers_outside_the_cluster_are_counted_by_block() -> None:
    worker = Worker()
    many = [fresh(destination=world(number)) for number in range(MAX_WORLD_PEERS + 500)]

    for offset in range(2):
        for tracked in worker.take(offset, make_batch(*many)):
            worker.counter.finish(tracked)
    worker.write()

    found = worker.pairs()
    assert sum(counted[0] for counted in found.values()) == 2 * len(many)
    single = [key for _, key in found if not key.peer.coarse]
    blocks = {key.peer.block for _, key in found if key.peer.coarse}
    assert len(single) == MAX_WORLD_PEERS
    assert blocks == {coarse(f"{world(number)}/32") for number in range(MAX_WORLD_PEERS, len(many))}
    assert all(block.endswith("/24") for block in blocks)
    assert coarse("2001:db8:1:2:3::4/128") == "2001:db8:1:2::/64"


def test_a_scan_of_ports_makes_few_combinations_and_loses_no_verdict() -> None:
    worker = Worker()
    many = [fresh(destination_port=port, tcp_flags=2) for port in range(1, 1000)]

    (tracked,) = worker.take(0, make_batch(*many))
    worker.counter.finish(tracked)
    worker.write()

    found = worker.pairs()
    assert len(found) == MAX_PORTS + 1
    assert {key.port: counted[0] for (_, key), counted in found.items()}[0] == len(many) - MAX_PORTS


def test_a_workload_with_too_many_combinations_leaves_room_for_others() -> None:
    worker = Worker(limit=1000)
    peers = [fresh(destination=world(number)) for number in range(300)]

    (tracked,) = worker.take(0, make_batch(*peers, fresh(endpoint=8)))
    worker.counter.finish(tracked)
    worker.write()

    found = worker.pairs()
    assert sum(counted[0] for counted in found.values()) == 301
    (folded,) = [counted[0] for (_, key), counted in found.items() if key.peer.coarse]
    assert folded == 200
    assert [counted[0] for (_, key), counted in found.items() if key.subject.namespace == "gone"] == [1]


def test_an_end_that_readers_would_refuse_is_unknown() -> None:
    folded: list[str] = []
    combinations = Combinations(HourLimits(1000, folded.append))
    refused, taken = PairEnd(namespace="shop", workload="K\u00efnd/web"), PairEnd(namespace="shop", workload="Kind/web")

    numbers = [combinations._class_of_peer(end) for end in (refused, taken)]

    assert [combinations._peer_list[number] for number in numbers] == [PairEnd(unknown=True), taken]
    assert folded == ["invalid"]


def test_the_limit_of_a_worker_counts_by_namespace() -> None:
    folded: list[str] = []
    limits = HourLimits(1, folded.append)
    first, second = (
        PairKey(subject=PairEnd(namespace=name), peer=PairEnd(node="n"), direction="egress", protocol=6, port=1,
                verdict="allow", reason="policy")
        for name in ("a", "b")
    )  # fmt: skip
    limits._of_workload[first.subject] = -10  # a tenth of 1 is nothing

    assert limits.bounded(first) == first
    assert limits.bounded(first) == first
    assert limits.bounded(second).subject == PairEnd(namespace="b", unknown=True)
    assert folded == ["worker"]


def test_hours_without_a_write_do_not_add_up_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_counter, "MAX_BYTES", 500_000)
    worker = Worker(limit=10_000)

    def scan(hour: int) -> None:
        worker.counter._now = lambda: NOW_S + hour * 3600
        peers = [fresh(destination=world(1000 * hour + number)) for number in range(900)]
        (tracked,) = worker.take(hour, make_batch(*peers))
        worker.counter.finish(tracked)

    for hour in range(5):
        scan(hour)
        failed = worker.counter.take_write()
        assert failed is not None
        worker.counter.not_written(failed)
    assert worker.counter.combinations <= 1001, "those of one hour, and one with any peer"

    worker.write()
    assert sum(counted[0] for counted in worker.pairs().values()) == 5 * 900
    scan(5)
    worker.counter.take_write()
    assert worker.counter.combinations == 900, "a written segment has made room for a new hour"


def test_what_waits_over_the_hour_counts_by_the_limits_of_its_own() -> None:
    worker = Worker(limit=1000)
    first = [fresh(destination=world(number)) for number in range(100)]
    later = [fresh(destination=world(100 + number)) for number in range(100)]

    (before,) = worker.take(0, make_batch(*first))
    worker.counter._now = lambda: NOW_S + 3600
    (after,) = worker.take(1, make_batch(*later))
    for tracked in (before, after):
        worker.counter.finish(tracked)
    worker.write()

    found = worker.pairs()
    assert sum(counted[0] for counted in found.values()) == 200
    assert not [key for _, key in found if key.peer.coarse], "each hour has room for a hundred of a workload"


def test_old_verdicts_are_said_to_be_missed() -> None:
    worker = Worker()
    old = make_batch(fresh(), clock=CLOCK - 26 * HOUR_NS)

    (tracked,) = worker.take(0, old)
    worker.counter.finish(tracked)

    assert worker.write() == {0: 1}
    assert worker.pairs() == {}
    assert worker.registry.get_sample_value("kubeweir_streams_pairs_missed_verdicts_total", {"reason": "late"}) == 1


def test_only_a_server_gives_a_port() -> None:
    verdicts = np.zeros(7, VERDICT)
    verdicts["source_port"] = 53
    verdicts["destination_port"] = [50_000, 50_000, 50_000, 443, 50_000, 0x0800, 50_000]
    verdicts["protocol"] = [17, 6, 6, 6, 17, 1, 17]
    verdicts["tcp_flags"] = [0, 0x02, 0x12, 0x10, 0, 0, 0]
    verdicts["dialled_port"] = [0, 0, 0, 0, 50_000, 0, 0]
    verdicts["flags"] = [0, 0, 0, 0, 0, 0, 1]

    assert server_ports(verdicts).tolist() == [0, 50_000, 0, 443, 50_000, 0x0800, 0]


def test_a_takeover_begins_at_the_mark() -> None:
    marks = {0: Mark(120, 0, 500), 1: Mark(200, 0, 500), 2: Mark(None, 0, 500), 3: Mark(900, 0, 10),
             4: Mark(5, 100, 500), 5: Mark(100, 0, 90_000)}  # fmt: skip
    committed = {0: 150, 1: 150, 2: 150, 3: 7, 4: 150, 5: 50_000}

    assert starts_of(marks, committed, 1000) == {
        0: (120, 0),  # read again, to count
        1: (200, 0),  # not counted up to there
        2: (150, 0),
        3: (7, 0),  # the topic was made again
        4: (100, 95),  # retention was faster
        5: (49_000, 48_900),  # too much to read again
    }


def test_a_takeover_begins_at_what_retention_has_kept() -> None:
    marks = {0: Mark(900, 1000, 1200), 1: Mark(800, 1000, 1200), 2: Mark(None, 1000, 1200), 3: Mark(None, 1000, 1200),
             4: Mark(None, 3, 10)}  # fmt: skip
    committed = {0: 900, 1: 900, 2: None, 3: 900, 4: 700}

    assert starts_of(marks, committed, 20_000) == {
        0: (1000, 100),  # nobody has read what is missed
        1: (1000, 200),
        2: (1000, 0),  # Kafka has forgotten both, or nobody has read anything yet
        3: (1000, 0),
        4: (3, 0),  # the topic was made again, and Kafka has forgotten the mark
    }


def test_a_hole_in_the_offsets_is_not_said_to_be_counted() -> None:
    worker = Worker()
    for offset in (0, 5):
        (tracked,) = worker.take(offset, make_batch({"time_ns": 0}))
        worker.counter.finish(tracked)

    assert worker.write() == {0: 6}
    (record,) = [decode_coverage(value) for key, value in worker.written.items() if kind_of(key) == "coverage"]
    assert [(span.since_offset, span.until_offset) for span in record.spans] == [(0, 1), (5, 6)]


def test_a_new_record_of_coverage_goes_on_where_the_last_one_has_ended() -> None:
    worker = Worker()
    first, second = (worker.take(offset, make_batch({"time_ns": 0}))[0] for offset in (0, 1))
    worker.counter.finish(first)
    write = worker.counter.take_write()
    assert write is not None
    worker.counter.finish(second)  # while the write is on its way
    worker.counter.spans._began -= pair_spans.DAY_S + 1
    worker.counter.written(write)

    assert worker.write() == {0: 2}
    (record,) = [decode_coverage(value) for key, value in worker.written.items() if kind_of(key) == "coverage"]
    assert [(span.since_offset, span.until_offset) for span in record.spans] == [(1, 2)]


def template_of(number: int) -> Any:
    """Return what a combination has of a template whose subject is a workload of its own."""
    end = SimpleNamespace(
        ambiguous=False, pod_name="p", namespace=f"team-{number}", workload=f"Deployment/app-{number}"
    )
    decision = SimpleNamespace(direction="egress", aggregated=False, disposition="allow", reason="policy")
    subject = SimpleNamespace(end=end, profile=f"{number:016x}")
    return SimpleNamespace(decision=decision, protocol=6, rules=(), subject=subject)


def test_the_memory_of_a_segment_counts_what_it_really_takes() -> None:
    """Ends are kept also if none of their combinations passes the bounds: a scan of addresses makes many."""
    segment = Segment("c1", HourLimits(10**6, lambda _: None), NOW_S, 10**6)
    made = segment.combinations
    tracemalloc.start()
    try:
        for step in ("peers", "subjects", "combinations"):
            before, counted = tracemalloc.get_traced_memory()[0], segment.memory
            for number in range(20_000):
                if step == "peers":
                    made._class_of_peer(PairEnd(block=f"10.0.{number >> 8}.{number & 255}/32"))
                elif step == "subjects":
                    made._class_of_subject(template_of(number))
                else:
                    made._number(number << 32 | number, 443)
                    made.examples[number] = tuple(f"4be0a7c9-{number + more}" for more in range(3))
            made._limits.begin_hour()
            taken, counted = tracemalloc.get_traced_memory()[0] - before, segment.memory - counted
            assert 0.8 * taken < counted < 3 * taken, step
    finally:
        tracemalloc.stop()
