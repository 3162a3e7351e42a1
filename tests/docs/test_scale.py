"""What docs/scale.md says about memory: the bounds are those of the code, and they fit the container."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from enrich.index.cluster import Cluster
from enrich.index.ended_intervals import ENDED_BYTES, MAX_ENDED
from enrich.index.former_values import CHANGE_BYTES, MAX_CHANGES, FormerValues
from enrich.index.named_addresses import MAX_OUTER, OUTER_BYTES
from enrich.index.pod_ranges import MAX_RANGES, RANGE_BYTES
from enrich.index.unconfirmed_intervals import MAX_UNCONFIRMED
from enrich.render.enricher import DIALLED_BYTES, MAX_DIALLED, MAX_TEXTS, TEXT_BYTES
from enrich.render.fragments import MAX_END_BYTES
from enrich.render.peer_lookup import ANSWER_BYTES, MAX_ANSWERS, MAX_PEER_BYTES
from enrich.render.rings import MAX_TEMPLATE_BYTES
from enrich.wire.topics import SMALL
from streams.kafka.connection import MAX_READ_AHEAD_KB
from streams.kafka.producer import MAX_QUEUED_KB, MAX_RETRIED_KB, MAX_ROUTED_KB
from streams.settings import Settings
from streams.worker.bounded_app import MAX_PARTITION_FETCH
from streams.worker.bounded_fetch import MAX_FETCHED, MAX_POLL, MAX_READY, MAX_VALUE, SMALL_BATCH
from streams.worker.inflate import MAX_INFLATED
from streams.worker.pair_limits import NOTED_BYTES
from streams.worker.pairs import MAX_UNWRITTEN_BYTES

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
QUEUE_OVERHEAD = 1.8
"""What librdkafka keeps beside a record: measured with records of 300 bytes, the smallest that there are."""
GZIP = 1032
"""The most bytes that deflate makes of one."""
TABLES = 8
"""How many tables of former values an index has."""
BOUNDS = {
    "former values": TABLES * MAX_CHANGES * CHANGE_BYTES,
    "ended intervals": MAX_ENDED * ENDED_BYTES,
    "unconfirmed intervals": MAX_UNCONFIRMED * ENDED_BYTES,
    "ranges of pods' addresses": MAX_RANGES * RANGE_BYTES,
    "outer addresses of Services": MAX_OUTER * OUTER_BYTES,
    "rendered pods": MAX_END_BYTES,
    "distinct peers": MAX_PEER_BYTES,
    "templates": MAX_TEMPLATE_BYTES,
    "answers about addresses": MAX_ANSWERS * ANSWER_BYTES,
    "texts of addresses": MAX_TEXTS * TEXT_BYTES,
    "dialled addresses": MAX_DIALLED * DIALLED_BYTES,
    "batches in flight": 2 * Settings().in_flight_bytes,
    "pending verdicts": 1.5 * Settings().pending_bytes,
    "records for Kafka": QUEUE_OVERHEAD * MAX_QUEUED_KB * 1024,
    "records of routes": 5 * QUEUE_OVERHEAD * MAX_ROUTED_KB * 1024,
    "records sent alone": QUEUE_OVERHEAD * MAX_RETRIED_KB * 1024,
    "intervals read ahead": MAX_READ_AHEAD_KB * 1024,
    "intervals inflated": GZIP * int(SMALL),
    "pairs": MAX_UNWRITTEN_BYTES + NOTED_BYTES,
    "batches read ahead": Settings().partitions * MAX_PARTITION_FETCH
    + sum((MAX_FETCHED, MAX_VALUE, MAX_READY, MAX_POLL, MAX_VALUE)),
    "batches inflated": 3 * MAX_INFLATED + Settings().partitions * SMALL_BATCH,
}


def rows() -> dict[str, int]:
    """The table of the bounds: MiB by part."""
    text, _, _ = (ROOT / "docs/scale.md").read_text().partition("\nTogether ")
    return {part: int(mib) for part, mib in re.findall(r"^\| ([^|]+) \| (\d+) \|", text, re.MULTILINE)}


def test_the_page_states_the_bounds_of_the_code() -> None:
    found = rows()
    assert BOUNDS.keys() <= found.keys()
    for part, bound in BOUNDS.items():
        assert abs(found[part] - bound / MIB) <= 1, part


def test_the_bounds_together_fit_the_container() -> None:
    total = sum(rows().values())
    assert f"Together {total:,} MiB" in (ROOT / "docs/scale.md").read_text()
    manifests = yaml.safe_load_all((ROOT / "deploy/kubernetes/weir-streams.yaml").read_text())
    [pod] = [one["spec"]["template"]["spec"] for one in manifests if one["kind"] == "Deployment"]
    limit = pod["containers"][0]["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    assert total + 512 <= int(limit.removesuffix("Mi")), "half a gibibyte is for the other roles"


def test_every_table_of_former_values_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    initialize = FormerValues.__init__

    def counted(self: FormerValues[object, object], tail_ns: int, skew_ns: int, limit: int = MAX_CHANGES) -> None:
        made.append(limit)
        initialize(self, tail_ns, skew_ns, limit)

    monkeypatch.setattr(FormerValues, "__init__", counted)
    Cluster()
    assert made == [MAX_CHANGES] * TABLES
