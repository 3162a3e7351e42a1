"""Pairs on real Kafka: each verdict is counted once, whatever happens to the workers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from enrich.wire.batch import encode_batch
from enrich.wire.pair import Pair
from enrich.wire.topics import topics
from streams.cli.pairs_reading import read_pairs
from tests.kafka.batches import make_batch, make_header, make_rows
from tests.kafka.site import Site, until

pytestmark = pytest.mark.kafka


def pairs_of(site: Site) -> list[Pair]:
    """All pairs of the last two hours."""
    hour = int(time.time()) // 3600
    return list(read_pairs(site.connection, topics(site.prefix, 4), hour - 2, hour + 2))


def verdicts_of(site: Site) -> int:
    return sum(pair.verdicts for pair in pairs_of(site))


def test_pairs_count_what_the_flows_have(site: Site) -> None:
    service = site.start_enrich(WEIR_PAIRS_FLUSH="1")
    for number in range(20):
        site.send(make_batch(number * 50, 50, destination_port=8080 + number % 2), f"c1/n1/r{number % 5}")
    rows = make_rows(30, denied=True, ingress=True)
    rows["count"] = 7
    site.send(encode_batch(make_header(5000, 30), rows))
    site.flush()

    site.read_flows(100)
    until(lambda: verdicts_of(site) == 1030, lambda: f"1030 verdicts: {pairs_of(site)}")

    by_port = {(pair.key.port, pair.key.verdict): pair for pair in pairs_of(site)}
    assert {key: (pair.verdicts, pair.packets) for key, pair in by_port.items()} == {
        (8080, "allow"): (500, 500), (8081, "allow"): (500, 500), (8080, "deny"): (30, 210),
    }  # fmt: skip
    key = by_port[8080, "allow"].key
    assert (key.subject.namespace, key.direction, key.reason, key.protocol) == ("shop", "egress", "policy", 6)
    assert key.subject.profile
    assert key.peer.profile
    assert key.policies[0].name == "web-allow-api"
    assert key.policies[0].rule == 0
    assert service.stop() == 0
    assert "pairs" not in {line.get("problem") for line in service.lines()}
