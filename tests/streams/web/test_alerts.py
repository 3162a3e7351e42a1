"""Which alerts fire, by the states of the role alerts, and who sees which of them."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNKNOWN, TokenGate
from streams.alerts.alert import AlertState
from streams.alerts.deltas import fingerprint
from streams.kafka.connection import ReadError
from streams.metrics.web import WebMetrics
from streams.web import alerts
from streams.web.alerts import Alerts, sees_alert
from streams.web.answers import Answers
from streams.web.firing import MAX_KEPT, Firing, FiringAlerts, Named, named_alert
from streams.web.viewers import Everybody
from tests.streams.web.test_viewers import Rights
from tests.waiting import until


def make_state(rule: str = "burst", status: Any = "firing", **more: Any) -> tuple[bytes, bytes]:
    """Return the record of an alert on the topic of states: its key and its value."""
    group = more.pop("group", {"cluster": "c1", "subject.namespace": "shop"})
    name = fingerprint(rule, list(group.values()))
    record = {
        "id": f"{rule}-{name}-1-firing", "rule": rule, "fingerprint": name, "status": "firing", "severity": "warning",
        "group": group, "labels": {}, "annotations": {"summary": "somebody is denied"}, "count": 7,
        "timestamp": "2026-11-30T02:00:00Z", "startsAt": "2026-11-30T01:59:00Z", **more,
    }  # fmt: skip
    state = AlertState(1, rule, "v", list(group.values()), status, record=record)
    return f"{rule}/{name}".encode(), msgspec.json.encode(state)


def find(cluster: str = "", **given: Any) -> Named:
    found = named_alert(*make_state(**given), cluster)
    assert found is not None
    return found


def test_only_what_fires_is_an_alert() -> None:
    key, value = make_state()
    found = named_alert(key, value, "c1")
    assert found is not None
    assert (found.alert.summary, found.alert.count, found.places) == ("somebody is denied", 7, (("shop",),))
    assert named_alert(*make_state(status="pending"), "") is None
    assert named_alert(key, b"", "") is None
    assert named_alert(b"burst/0000000000000000", value, "") is None
    assert named_alert(b"change/c1/NetworkPolicy shop/db", b'{"policy":"x"}', "") is None
    assert named_alert(key, value, "c2") is None
    for wrong in (b"{", b"[" * 100_000, b"\xff", value.replace(b'"startsAt"', b'"sometime"')):
        assert named_alert(key, wrong, "") is None


def test_a_text_of_any_length_and_type_is_bounded() -> None:
    many = {f"label{number}": "x" * 5000 for number in range(100)}
    found = find(annotations={**many, "summary": "y" * 5000}, policy=7, changedBy=["x"], count="many")
    assert len(msgspec.json.encode(found)) < 5000
    assert (found.alert.policy, found.alert.changed_by, found.alert.count) == ("", "", 0)


def test_what_no_worker_writes_is_not_kept() -> None:
    key, value = make_state("r" * 1000)
    assert named_alert(key, value, "") is None
    many = [{"subject.namespace": "shop"}] * 101
    assert find(group=AFTER, policy="NetworkPolicy shop/db", pairs=many[:100]).places
    assert not find(group=AFTER, policy="NetworkPolicy shop/db", pairs=many).places


AFTER = {"cluster": "c1", "policy": "NetworkPolicy shop/db", "changed_at": "2026-11-30T01:58:00Z", "4": "0"}


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"group": {"cluster": "c1", "subject.namespace": "shop", "peer.namespace": "bank"}}, True),
        ({"group": {"cluster": "c1", "src.name": "bank/Deployment/x", "dest.name": "shop/Deployment/y"}}, True),
        ({"group": {"cluster": "c1", "src.name": "bank/Deployment/x", "dest.name": "10.0.0.1"}}, False),
        ({"group": {"cluster": "c1", "src.namespace": "bank", "dest.namespace": "bank"}}, False),
        # A node, an address or a workload of this name is no namespace.
        ({"group": {"cluster": "c1", "src.name": "shop"}}, False),
        ({"group": {"cluster": "c1", "src.name": "shop/x"}}, False),
        ({"group": {"cluster": "c1", "src.workload": "shop/x"}}, False),
        ({"group": {"cluster": "c1", "node": "shop", "kind": "gap"}}, False),
        ({"group": {"cluster": "c1", "port": "80"}}, False),
        ({"group": {"cluster": "c1", "subject.namespace": "*"}, "digest": True}, False),
        ({"group": AFTER, "policy": "NetworkPolicy shop/db", "pairs": []}, True),
        ({"group": AFTER, "policy": "NetworkPolicy shop/db", "pairs": [{"subject.namespace": "shop"}]}, True),
        ({"group": AFTER, "policy": "NetworkPolicy shop/db", "pairs": [{"subject.namespace": "bank"}]}, False),
        ({"group": AFTER, "policy": "NetworkPolicy shop/db", "pairs": [{"port": "80"}]}, False),
        ({"group": AFTER, "policy": "NetworkPolicy bank/db", "pairs": [{"subject.namespace": "shop"}]}, False),
        ({"group": AFTER, "policy": "ClusterNetworkPolicy shop", "pairs": [{"subject.namespace": "shop"}]}, False),
        ({"group": AFTER, "policy": "ClusterNetworkPolicy shop/x", "pairs": [{"subject.namespace": "shop"}]}, False),
        ({"group": AFTER, "policy": "NetworkPolicy shop/a bank/b", "pairs": [{"subject.namespace": "shop"}]}, False),
    ],
)
def test_an_alert_is_for_those_who_may_see_all_its_records(given: dict[str, Any], seen: bool) -> None:
    found = find(**given)
    assert bool(sees_alert(Rights(shop=True, bank=False), found)) is seen
    assert sees_alert(Everybody(), found) is True


def test_no_foreign_alert_is_seen_among_many() -> None:
    """A pair of ends is seen by one of them; each pair of a change must be."""
    chance = random.Random(1)  # noqa: S311 - no secret
    viewer = Rights(shop=True, web=True, bank=False, db=False, ops=False)
    names = ("shop", "web", "bank", "db", "ops")
    seen = 0
    for _ in range(5_000):
        pairs = [{f"{end}.namespace": chance.choice(names) for end in ("subject", "peer")} for _ in range(3)]
        if chance.random() < 0.5:
            group = {"cluster": "c1", **pairs[0]}
            found, ends = find(group=group), [set(pairs[0].values())]
        else:
            owner = chance.choice(names)
            found = find(group=AFTER, policy=f"NetworkPolicy {owner}/db", pairs=pairs)
            ends = [{owner}, *(set(pair.values()) for pair in pairs)]
        expected = all(one & {"shop", "web"} for one in ends)
        assert sees_alert(viewer, found) is expected
        seen += expected
    assert seen > 500


def test_another_clusters_alert_is_nobodys() -> None:
    viewer = Rights(shop=True)
    viewer.cluster = "c1"
    assert sees_alert(viewer, find()) is True
    assert sees_alert(viewer, find(group={"cluster": "c2", "subject.namespace": "shop"})) is False
    assert sees_alert(viewer, find(group={"cluster": "", "subject.namespace": "shop"})) is False


class Fixed(FiringAlerts):
    """Has read these alerts, or could not."""

    def __init__(self, found: Firing | ReadError) -> None:
        self.found, self.reads = found, 0

    def read(self) -> Firing:
        self.reads += 1
        if isinstance(self.found, ReadError):
            raise self.found
        return self.found


def ask(firing: Fixed, gate: TokenGate | None, times: int = 1) -> list[Any]:
    async def waiting() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def look() -> list[Any]:
        view = Alerts(Answers(WebMetrics(CollectorRegistry()), gate, "c1"), firing)
        request = Request({"type": "http", "headers": [(b"authorization", b"Bearer t")]}, waiting)
        return list(await asyncio.gather(*(view._alerts(request) for _ in range(times)), return_exceptions=True))

    return asyncio.run(look())


def test_each_viewer_gets_their_own_of_one_reading() -> None:
    mine, other = find(), find(group={"cluster": "c1", "subject.namespace": "bank"})
    urgent = find(rule="fire", severity="critical", startsAt="2026-11-29T00:00:00Z")
    firing = Fixed(Firing([mine, other, urgent], "running"))
    gate = TokenGate(lambda _, namespace: ALLOWED if namespace == "shop" else FORBIDDEN)
    until(lambda: gate.look("t", "") == FORBIDDEN)
    first, second = ask(firing, gate, 2)
    assert [one["rule"] for one in first["alerts"]] == ["fire", "burst"]
    assert first == second
    assert (first["withheld"], first["left_out"], first["role"], firing.reads) == (0, 0, "running", 1)


def test_what_is_not_decided_is_withheld_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_DECIDE_S", 0.2)
    gate = TokenGate(lambda _, namespace: UNKNOWN if namespace == "shop" else FORBIDDEN)
    until(lambda: gate.look("t", "") == FORBIDDEN)
    (answer,) = ask(Fixed(Firing([find()], "running")), gate)
    assert (answer["alerts"], answer["withheld"]) == ([], 1)


def test_very_many_alerts_are_asked_about_by_their_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_DECIDE_S", 60.0)
    names = [f"team-{number}" for number in range(100)]
    many = [find(rule=f"r{number}", group={"cluster": "c1", "src.namespace": names[number % 100]})
            for number in range(3000)]  # fmt: skip
    asked: list[str] = []

    def review(_: str, namespace: str) -> int:
        asked.append(namespace)
        return ALLOWED if namespace in names[:50] else FORBIDDEN

    (answer,) = ask(Fixed(Firing(many, "running")), TokenGate(review, max_kept=1000))
    assert len(answer["alerts"]) + answer["left_out"] == 1500
    assert (answer["withheld"], len(asked)) == (0, 101)


def test_more_than_fit_are_counted_and_a_failure_is_kept() -> None:
    many = [find(rule=f"rule{number}") for number in range(alerts.MAX_SHOWN + 5)]
    (answer,) = ask(Fixed(Firing(many, "stopped", 3)), None)
    assert (len(answer["alerts"]), answer["left_out"], answer["unread"]) == (alerts.MAX_SHOWN, 5, 3)
    failing = Fixed(ReadError("Kafka is away"))
    assert [str(one) for one in ask(failing, None, 3)] == ["Kafka is away"] * 3
    assert failing.reads == 1
    assert MAX_KEPT > alerts.MAX_SHOWN
