"""Backtests of made-up pasts: a week of a cluster in which each combination is seen in many hours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from enrich.history.backtest import Backtest, Outcome
from enrich.history.change import Change
from enrich.history.comparing import Comparer
from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.wire.journal import JournalEntry, Profile
from enrich.wire.pair import HOUR_NS, Pair, PairEnd, PairKey
from enrich.wire.references import PolicyRef
from tests.bench_history.row import Row
from tests.enrich.history.journals import CLUSTER, START_NS, begin, entry, namespace, policy

NAMESPACES = 50
WORKLOADS = 20
HOURS = 168
VERDICTS = 60
"""Connections of a combination in an hour: one a minute."""


def rows() -> Iterator[Row]:
    """Yield a row for each size."""
    for connections in (1_000_000, 10_000_000):
        yield _row(connections)


def _row(connections: int) -> Row:
    pairs = connections // VERDICTS
    timeline = Timeline(CLUSTER, journal())
    change = Change((policy("allow", {"podSelector": {}, "ingress": [_FROM_WEB]}, "ns-1"),))
    started = time.perf_counter()
    made = Backtest(Comparer(timeline, Known(timeline.profiles), change))
    for pair in _pairs(pairs):
        made.add(pair)
    found = list(made.findings())
    seconds = time.perf_counter() - started
    assert len(found) == made.sums[Outcome.NEWLY_DENIED].findings > 0
    assert made.sums[Outcome.CANNOT_SAY].findings == 0
    judged = sum(one.connections for one in made.sums.values())
    return Row(f"backtest of {connections:,} connections", seconds, judged, f"{pairs:,} pairs of {HOURS} hours")


_FROM_WEB: dict[str, Any] = {"from": [{"podSelector": {"matchLabels": {"app": "app-0"}}}]}
_ALLOW: dict[str, Any] = {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}


def journal() -> Iterator[JournalEntry]:
    """Yield the journal of a week."""
    yield begin()
    for space in range(NAMESPACES):
        name = f"ns-{space}"
        yield entry(namespace(name), 0)
        yield entry(policy("allow", _ALLOW, name), 0)
        for workload in range(WORKLOADS):
            labels = {"app": f"app-{workload}", "team": f"team-{space}"}
            made = Profile(namespace=name, workload_kind="Deployment", workload_name=f"app-{workload}", labels=labels)
            yield entry(made, 0)
    # A policy changes every hour somewhere: the same question is a new one only there.
    for hour in range(1, HOURS):
        name = f"ns-{hour % NAMESPACES}"
        yield entry(policy("allow", {**_ALLOW, "policyTypes": ["Ingress"]}, name), hour * 3600.0)


def keys(count: int) -> list[PairKey]:
    """Return so many combinations of the journal's workloads."""
    profiles = Timeline(CLUSTER, journal()).profiles
    ends = [
        PairEnd(profile=number, namespace=one.namespace, workload=f"{one.workload_kind}/{one.workload_name}")
        for number, one in profiles.items()
    ]
    return [
        _key(ends[number % len(ends)], ends[(7 * number + number // len(ends)) % len(ends)]) for number in range(count)
    ]


def _pairs(count: int) -> Iterator[Pair]:
    each = max(1, count // HOURS)
    seen = keys(each)
    for number in range(count):
        hour = min(number // each, HOURS - 1)
        first = START_NS + hour * HOUR_NS + 2_000_000_000_000
        yield Pair(
            cluster=CLUSTER, hour=first // HOUR_NS, key=seen[number % each], verdicts=VERDICTS, packets=VERDICTS,
            first_ns=first, last_ns=first + 1_000_000_000_000,
        )  # fmt: skip


def _key(subject: PairEnd, peer: PairEnd) -> PairKey:
    allowed_by = (PolicyRef("NetworkPolicy", subject.namespace, "allow", 0),)
    return PairKey(
        subject=subject, peer=peer, direction="ingress", protocol=6, port=8080, verdict="allow", reason="policy",
        policies=allowed_by,
    )  # fmt: skip
