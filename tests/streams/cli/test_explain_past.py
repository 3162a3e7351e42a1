"""Explaining the past with what is left of its pods: what is not known of them is not guessed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET

from enrich.explain.query import parse_destination, parse_source
from enrich.history.advice.suggestion import Suggestion
from enrich.history.stand_ins import Known
from enrich.history.then import PastExplanation
from enrich.history.timeline import Timeline
from enrich.model import Service
from enrich.wire.address_interval import AddressInterval
from enrich.wire.flow import Flow, decode_flow
from enrich.wire.journal import ContainerPort, Profile
from streams.cli.explain_past import at_time, of_record
from streams.cli.past import Past
from tests.enrich.history.journals import CLUSTER, at, begin, entry, gap, namespace, node, policy, refused

CLOSED = {"podSelector": {"matchLabels": {"app": "db"}}}
FROM_WEB = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
INTERVALS = [
    AddressInterval(
        cluster=CLUSTER, node="n1", ip=f"10.0.0.{index}", uid=name, namespace="shop", pod=f"{name}-1", first=at(1),
        start=at(1), labels={"app": name},
    )
    for index, name in enumerate(("web", "db"), 1)
]  # fmt: skip


def profile(name: str, *ports: ContainerPort, **labels: str) -> Profile:
    return Profile(
        namespace="shop", workload_kind="Deployment", workload_name=name, labels={"app": name, **labels}, ports=ports
    )


def past(spec: dict[str, Any], *profiles: Profile, later: dict[str, Any] | None = None) -> Past:
    """Return a past with a policy of the database, which is changed after 1000 s."""
    objects = (*profiles, namespace("shop"), node("n1", "192.168.0.1"), policy("db", {**CLOSED, **spec}))
    changed = [entry(policy("db", {**CLOSED, **later}), 1000)] if later else []
    made = Timeline(CLUSTER, [begin(), *(entry(one, 0) for one in objects), *changed])
    return Past(made, Known(made.profiles))


def ask(found: Past) -> PastExplanation:
    return at_time(found, INTERVALS, at(500), (parse_source("shop/web-1"), parse_destination("shop/db-1:5432")))


def record() -> Flow:
    """Return a denial whose pods are not known any more."""
    when = datetime.fromtimestamp(at(500) / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    end = {"namespace": "shop", "pod_namespace": "shop", "workload_kind": "Deployment", "node_name": "n1"}
    return decode_flow(json.dumps({
        "connection": {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": 5432,
                       "protocol": "tcp", "direction": "ingress"},
        "disposition": "deny", "reason": "default_deny", "policies": [],
        "isolated_by": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "db"}],
        "src": {**end, "pod_name": "web-1", "pod_uid": "web", "workload_name": "web", "labels": {"app": "web"}},
        "dest": {**end, "pod_name": "db-1", "pod_uid": "db", "workload_name": "db", "labels": {"app": "db"}},
        "count": 1, "timestamp": when, "last_timestamp": when, "node_name": "n1", "cluster": CLUSTER, "schema": 1,
        "id": "ring-1",
    }).encode())  # fmt: skip


def test_a_port_name_that_meant_two_ports_decides_nothing() -> None:
    named = {"ingress": [{**FROM_WEB, "ports": [{"port": "postgres"}]}]}
    two = (profile("db", ContainerPort("postgres", 5432, 6)), profile("db", ContainerPort("postgres", 5433, 6)))
    assert ask(past(named, profile("web"), two[0])).then.verdict == "allow"
    found = ask(past(named, profile("web"), *two))
    assert found.then.verdict == "unknown"
    assert "which ports of the pods had which names is not known" in found.then.text
    assert found.today is None
    assert ask(past({"ingress": [FROM_WEB]}, profile("web"), *two)).then.verdict == "allow"


def test_a_label_that_profiles_leave_out_is_not_taken_to_be_missing() -> None:
    hashed = {"from": [{"podSelector": {"matchLabels": {"app": "web", "pod-template-hash": "7f9c"}}}]}
    found = of_record(past({}, profile("web"), profile("db"), later={"ingress": [hashed]}), [], record())
    assert (found.agrees, found.then.verdict) == (True, "deny")
    assert found.today is None, "it depends on the label"
    found = of_record(past({}, profile("web"), profile("db"), later={"ingress": [FROM_WEB]}), [], record())
    assert (found.agrees, found.today and found.today.verdict) == (True, "allow")


def test_what_is_suggested_is_about_the_policies_of_today_and_the_kinds_of_pods_that_were_seen() -> None:
    others = profile("web", version="1"), profile("db"), profile("api")
    found = of_record(past({}, *others, later={"ingress": []}), [], record(), suggest=True).suggestion
    assert isinstance(found, Suggestion)
    (made,) = found.policies
    assert made["spec"] == {
        "podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                     "ports": [{"protocol": "TCP", "port": 5432}]}],
    }  # fmt: skip
    allowed = of_record(past({}, *others, later={"ingress": [FROM_WEB]}), [], record(), suggest=True).suggestion
    assert allowed == Suggestion(text="nothing needs to be added: it is allowed")
    hashed = {"from": [{"podSelector": {"matchLabels": {"app": "web", "pod-template-hash": "7f9c"}}}]}
    unsure = of_record(past({}, *others, later={"ingress": [hashed]}), [], record(), suggest=True).suggestion
    assert unsure == Suggestion(text="cannot say: it depends on labels of the pods that are not known")
    assert of_record(past({}, *others), [], record()).suggestion is UNSET


def test_a_state_after_one_that_is_not_known_was_changed_and_not_created() -> None:
    found = past({"ingress": []}, profile("web"), profile("db"))
    states = [entry(policy("db", CLOSED), 0), refused(policy("db", CLOSED), 1000), entry(policy("db", CLOSED), 1100)]
    made = Timeline(CLUSTER, [begin(), entry(namespace("shop"), 0), *states])
    answer = ask(Past(made, found.known))
    assert [(one.what, one.name) for one in answer.changes] == [("changed", "db"), ("changed", "db")]


def test_a_service_that_is_not_known_is_not_taken_for_an_address_outside() -> None:
    found = past({"ingress": []}, profile("web"), profile("db"))
    service = Service("shop", "db", "u1", ("10.96.0.9",))
    made = Timeline(CLUSTER, [begin(), entry(namespace("shop"), 0), refused(service, 100)])
    ends = parse_source("shop/web-1"), parse_destination("10.96.0.9:5432")
    answer = at_time(Past(made, found.known), INTERVALS, at(500), ends)
    assert answer.then.verdict == "unknown"
    assert "Service shop/db" in answer.then.text
    assert at_time(Past(made, found.known), INTERVALS, at(50), ends).then.verdict == "allow"


def test_a_record_in_a_gap_is_not_blamed_on_labels() -> None:
    states = [entry(one, 0) for one in (profile("web"), profile("db"), namespace("shop"), node("n1", "192.168.0.1"))]
    made = Timeline(CLUSTER, [begin(), *states, gap(480, 520)])
    found = of_record(Past(made, Known(made.profiles)), [], record())
    assert (found.agrees, found.then.verdict) == (None, "unknown")
    assert "the journal was not written from" in found.then.text


def test_too_many_kinds_of_pods_have_no_answer() -> None:
    many = [profile("web", version=str(number)) for number in range(17)]
    found = of_record(past({}, *many, profile("db")), [], record())
    assert found.then.verdict == "unknown"
    assert "more than 16 combinations" in found.then.text
    assert of_record(past({}, *many[:16], profile("db")), [], record()).then.verdict == "deny"
