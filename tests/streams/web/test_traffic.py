"""Pairs are added up to a map, and no verdict is lost, even if the map cannot show all places."""

from __future__ import annotations

import pytest

from enrich.wire.pair import HOUR_NS, Pair, PairEnd, PairKey
from enrich.wire.references import PolicyRef
from streams.web.traffic import MAX_DETAILS, MAX_STEPS, VERDICTS, Place, Steps, TooWideError, Traffic, steps_of

HOUR = 500_000
STEPS = Steps(HOUR, 1, 4)
RULE = PolicyRef(kind="NetworkPolicy", namespace="shop", name="web", rule=0)


def workload(namespace: str, name: str) -> PairEnd:
    return PairEnd(profile="0123456789abcdef", namespace=namespace, workload=f"Deployment/{name}")


def make_pair(subject: PairEnd, peer: PairEnd, hour: int = HOUR, verdicts: int = 1, **key: object) -> Pair:
    given = {"direction": "egress", "protocol": 6, "port": 443, "verdict": "allow", "reason": "policy", **key}
    at = hour * HOUR_NS
    return Pair(cluster="c1", hour=hour, key=PairKey(subject=subject, peer=peer, **given), verdicts=verdicts,  # type: ignore[arg-type]
                packets=verdicts, first_ns=at, last_ns=at)  # fmt: skip


WEB, API = workload("shop", "web"), workload("bank", "api")


def total(traffic: Traffic) -> int:
    return sum(sum(counts[1:]) for edge in traffic.places_and_edges()[1] for counts in edge.counts)


@pytest.mark.parametrize(
    ("hours", "length", "count"), [(1, 1, 1), (24, 1, 24), (48, 1, 48), (49, 2, 25), (24 * 30, 24, 30), (9600, 336, 29)]
)
def test_a_window_has_steps_of_whole_hours(hours: int, length: int, count: int) -> None:
    since = HOUR * HOUR_NS
    assert steps_of(since, since + hours * HOUR_NS) == (HOUR, length, count)
    assert steps_of(since + 5, since + (hours - 1) * HOUR_NS + 6) == (HOUR, length, count)
    assert steps_of(0, since * 9).number <= MAX_STEPS


def test_an_edge_goes_to_whom_was_talked_to_whoever_decided() -> None:
    traffic = Traffic(STEPS)
    traffic.add(make_pair(WEB, API, verdicts=3, policies=(RULE,)))
    traffic.add(
        make_pair(API, WEB, hour=HOUR + 2, verdicts=2, direction="ingress", verdict="deny", reason="default_deny")
    )
    places, (edge,) = traffic.places_and_edges()
    assert [places[edge.source], places[edge.destination]] == [
        Place("workload", "shop", "Deployment/web"),
        Place("workload", "bank", "Deployment/api"),
    ]
    assert edge.counts == [(0, 0, 0, 3, 0), (2, 2, 0, 0, 0)]
    assert [(one.direction, one.port, one.verdict, one.reason, one.policies, one.verdicts) for one in edge.details] == [
        ("ingress", "443/tcp", "deny", "default_deny", (), 2),
        ("egress", "443/tcp", "allow", "policy", ("shop/web",), 3),
    ]


@pytest.mark.parametrize(
    ("end", "place"),
    [
        (PairEnd(namespace="shop"), ("bare", "shop", "")),
        (PairEnd(node="n1"), ("node", "", "n1")),
        (PairEnd(block="198.51.100.0/24"), ("outside", "", "198.51.100.0/24")),
        (PairEnd(unknown=True), ("unknown", "", "")),
        (PairEnd(coarse=True), ("unknown", "", "")),
    ],
)
def test_what_is_no_workload_has_a_place_too(end: PairEnd, place: Place) -> None:
    traffic = Traffic(STEPS)
    traffic.add(make_pair(WEB, end, port=0, protocol=0))
    places, (edge,) = traffic.places_and_edges()
    assert places[edge.destination] == place
    assert edge.details[0].port == ""


def test_many_networks_outside_become_one_place() -> None:
    traffic = Traffic(STEPS, max_outside=3)
    for number in range(9):
        traffic.add(make_pair(WEB, PairEnd(block=f"198.51.100.{number}/32")))
    places, _ = traffic.places_and_edges()
    assert [one.name for one in places if one.kind == "outside"] == [
        "", *(f"198.51.100.{number}/32" for number in range(3))]  # fmt: skip
    assert traffic.has_other_networks
    assert total(traffic) == 9


def test_too_many_workloads_become_their_namespaces_and_no_verdict_is_lost() -> None:
    traffic = Traffic(STEPS, max_edges=4)
    for number in range(20):
        traffic.add(make_pair(workload("shop", f"w{number}"), workload("bank", f"b{number}"), HOUR + number % 4))
    assert traffic.is_coarse
    assert traffic.places_and_edges()[0] == [("workload", "bank", ""), ("workload", "shop", "")]
    assert total(traffic) == 20
    for number in range(3):
        traffic.add(make_pair(WEB, workload(f"n{number}", "w")))
    with pytest.raises(TooWideError):
        traffic.add(make_pair(WEB, workload("n3", "w")))


def test_details_and_counts_are_bounded() -> None:
    traffic = Traffic(STEPS)
    for port in range(1, 40):
        traffic.add(make_pair(WEB, API, port=port))
    traffic.add(make_pair(WEB, API, port=1, verdicts=(1 << 63) - 1))
    traffic.add(make_pair(WEB, API, hour=HOUR + 99, port=1, verdicts=(1 << 63) - 1))
    _, (edge,) = traffic.places_and_edges()
    assert len(edge.details) == MAX_DETAILS
    assert edge.other_details == 39 - MAX_DETAILS
    assert edge.counts == [(0, 0, 0, (1 << 53) - 1, 0), (3, 0, 0, (1 << 53) - 1, 0)]


def test_every_verdict_of_a_pair_has_a_column() -> None:
    traffic = Traffic(STEPS)
    for verdict in VERDICTS:
        traffic.add(make_pair(WEB, API, verdict=verdict))
    assert traffic.places_and_edges()[1][0].counts == [(0, 1, 1, 1, 1)]
