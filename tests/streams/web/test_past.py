"""Why a record was decided so: what the page reads for it fits in the memory of the page."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import msgspec
import pytest
import yaml

from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.wire.address_interval import AddressInterval
from enrich.wire.flow import NamedPolicy
from enrich.wire.journal import JournalEntry
from streams.cli.past import Past
from streams.journal.reading import within_memory
from streams.observing.record_search import Found
from streams.settings import Settings
from streams.web import past
from streams.web.past import PastQuestions, _named_policies
from streams.web.viewers import Everybody
from tests.enrich.history.advice.policies import cluster_policy
from tests.enrich.history.journals import CLUSTER, at, begin, entry, namespace, node, policy
from tests.streams.web.records import make_end, make_flow


def test_a_journal_that_does_not_fit_is_said_in_place_of_an_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty rules are small on Kafka and large in memory, and anybody who may make a policy can make many."""
    rules = b'{"spec":{"ingress":[' + b",".join([b"{}"] * 100_000) + b"]}}"
    read = 0

    def load_past(*args: Any) -> None:
        nonlocal read
        entry = JournalEntry(cluster="c1", kind="NetworkPolicy", seen_ns=1, object=msgspec.Raw(rules))
        for _ in within_memory(repeat(entry, 10_000), "p.journal", *args[5:]):
            read += len(rules)

    flow = make_flow(1)
    monkeypatch.setattr(past, "find_record", lambda *_: Found(flow, b""))
    monkeypatch.setattr(past, "load_past", load_past)
    questions = PastQuestions(Settings(), lambda: {"bootstrap.servers": ""})
    answer = questions.explanation(flow.id, flow.timestamp, Everybody())
    assert "more versions than fit in memory (192 MiB)" in answer["why"]
    assert answer["why"].endswith(": weir explain may take more")
    assert read < 16 << 20


class Reader(Everybody):
    """May see one namespace."""

    def may_see(self, namespace: str) -> bool:
        return namespace == "shop"


@pytest.mark.parametrize("other", ["shop", "bank"])
def test_what_would_allow_it_is_said_to_who_may_see_both_ends(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    """A rule names labels of both ends."""
    ends = [make_end("shop", "web-0"), make_end(other, "api-0")]
    intervals = [
        AddressInterval(
            cluster=CLUSTER, node="n1", ip=ip, uid=end.pod_name, namespace=end.namespace, pod=end.pod_name,
            first=at(1), start=at(1), labels=dict(end.labels or {}),
        )
        for ip, end in zip(("10.0.0.10", "10.0.0.20"), ends, strict=True)
    ]  # fmt: skip
    closed = policy("closed", {"podSelector": {}, "policyTypes": ["Ingress"]}, other)
    states = (namespace("shop"), namespace("bank"), node("n1", "192.168.0.1"), closed)
    timeline = Timeline(CLUSTER, [begin(), *(entry(one, 0) for one in states)])
    when = datetime.fromtimestamp(at(500) / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    isolating = (named("NetworkPolicy", other, "closed"),)
    flow = make_flow(1, "shop", other, disposition="deny", reason="default_deny", policies=(), isolated_by=isolating,
                     timestamp=when, cluster=CLUSTER)  # fmt: skip
    monkeypatch.setattr(past, "find_record", lambda *_: Found(flow, b""))
    monkeypatch.setattr(past, "load_past", lambda *_: Past(timeline, Known(timeline.profiles)))
    monkeypatch.setattr(past, "intervals_of", lambda *_: intervals)
    questions = PastQuestions(Settings(), lambda: {"bootstrap.servers": ""})
    whole = questions.explanation(flow.id, flow.timestamp, Everybody())
    suggestion = whole["suggestion"]
    assert suggestion["text"] == "this NetworkPolicy would allow it"
    assert yaml.safe_load(suggestion["yaml"])["spec"]["podSelector"] == {"matchLabels": {"app": "api"}}
    assert not any("apiVersion" in text for _, _, text in whole["lines"]), "it is shown once"
    found = questions.explanation(flow.id, flow.timestamp, Reader())
    assert found.get("suggestion") == (suggestion if other == "shop" else None)
    assert ("you may see one of them only" in found["why"]) == (other == "bank")


SPEC = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]}
OF_ACME = {"egress": [{"action": "Deny", "to": [{"namespaces": {"matchLabels": {"customer": "acme"}}}]}]}


def named(kind: str, namespace: str, name: str) -> NamedPolicy:
    return NamedPolicy(kind=kind, namespace=namespace, name=name)


def shown(timeline: Timeline, at_ns: int, *names: NamedPolicy, sees_all: bool = True) -> dict[str, dict[str, str]]:
    """Return the policies of a record of shop by their names."""
    flow = make_flow(1, policies=names[:1], isolated_by=names[1:])
    return {one["name"]: one for one in _named_policies(timeline, at_ns, flow, sees_all=sees_all)}


def test_the_policies_of_a_record_are_those_of_its_time() -> None:
    timeline = Timeline(CLUSTER, [begin(), entry(policy("db", SPEC), 0), entry(policy("db", {"podSelector": {}}), 900)])
    names = named("NetworkPolicy", "shop", "db"), named("NetworkPolicy", "shop", "gone")
    found = shown(timeline, at(600), *names)
    assert list(found) == ["shop/db"]
    assert (yaml.safe_load(found["shop/db"]["yaml"])["spec"], found["shop/db"]["note"]) == (SPEC, "")


@pytest.mark.parametrize("second", [880, 950])
def test_a_policy_that_was_changed_about_then_is_not_shown_as_sure(second: int) -> None:
    timeline = Timeline(CLUSTER, [begin(), entry(policy("db", SPEC), 0), entry(policy("db", {"podSelector": {}}), 900)])
    found = shown(timeline, at(second), named("NetworkPolicy", "shop", "db"))["shop/db"]
    assert "version before or after" in found["note"]
    assert found["yaml"]


def test_a_policy_of_an_unknown_time_is_not_shown() -> None:
    timeline = Timeline(CLUSTER, [begin(), entry(policy("db", SPEC), 0)], at(500))
    found = shown(timeline, at(600), named("NetworkPolicy", "shop", "db"))["shop/db"]
    assert (found["yaml"], "the journal ends at" in found["note"]) == ("", True)


def test_who_may_see_the_ends_is_not_shown_policies_of_others() -> None:
    """A record may name any policy, if somebody else can write to its topic."""
    states = [policy("db", SPEC), policy("db", SPEC, "bank"), cluster_policy("all", OF_ACME)]
    timeline = Timeline(CLUSTER, [begin(), *(entry(one, 0) for one in states)])
    names = (named("NetworkPolicy", "shop", "db"), named("NetworkPolicy", "bank", "db"),
             named("ClusterNetworkPolicy", "", "all"))  # fmt: skip
    assert all(one["yaml"] for one in shown(timeline, at(600), *names).values())
    found = shown(timeline, at(600), *names, sees_all=False)
    assert found["shop/db"]["yaml"]
    assert [(found[name]["yaml"], "takes the right" in found[name]["note"]) for name in ("bank/db", "all")] == [
        ("", True)
    ] * 2


def test_large_policies_are_not_written() -> None:
    """Twenty of a megabyte would take the page minutes."""
    peers = [{"ipBlock": {"cidr": f"10.0.{number}.0/24"}} for number in range(250)]
    large = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": peers}] * 4}
    timeline = Timeline(CLUSTER, [begin(), *(entry(policy(f"db{one}", large), 0) for one in range(3))])
    found = shown(timeline, at(600), *(named("NetworkPolicy", "shop", f"db{one}") for one in range(3)))
    assert [bool(one["yaml"]) for one in found.values()] == [True, False, False]
    assert "too large" in found["shop/db2"]["note"]
