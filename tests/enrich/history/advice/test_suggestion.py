"""What would allow a connection: it does, it allows nothing else, and what cannot be suggested is said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.explain.explanation import explain_connection
from enrich.explain.query import parse_destination, parse_source
from enrich.history.advice.suggestion import Suggestion, suggest
from enrich.label_selector import Selector
from enrich.model import (
    Action,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    ClusterRule,
    Namespace,
    NetworkPolicy,
    Peer,
    Pod,
    Protocol,
    Rule,
    Tier,
)
from enrich.parse.manifest import read_manifest
from enrich.policy.decide import Decision, decide
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import Verdict
from tests.enrich.explain.test_explanation import BASE, SERVICES, Draw, pod, selector, view

MORE = (pod("shop/web-2", "10.0.0.11"), pod("shop/api", "10.0.0.12"), pod("data/db-2", "10.0.0.13"))
OUTSIDE = ("192.0.2.1", "192.0.2.2", "8.8.8.8", "8.8.8.9")
ENDS = ("shop/web", "data/db", "shop/host", "192.0.2.1", "8.8.8.8")


def suggested(state: PolicyView, source: str, destination: str) -> Suggestion:
    return suggest(state, SERVICES, parse_source(source), parse_destination(destination))


def with_policies(state: PolicyView, found: Suggestion) -> PolicyView:
    """Return the cluster after somebody has applied the manifests."""
    read = [read_manifest(one)[0] for one in found.policies]
    added = {one.key: one for one in read if isinstance(one, NetworkPolicy)}
    assert len(added) == len(found.policies)
    assert not added.keys() & state.policies.keys(), "no policy is replaced"
    return replace(state, policies={**state.policies, **added})


def verdict(state: PolicyView, source: str, destination: str) -> str:
    return explain_connection(state, SERVICES, parse_source(source), parse_destination(destination)).verdict


# --- for any policies


class Wider(Draw):
    """Random clusters with more pods, in which most pods are isolated and few tiered policies decide."""

    def rules(self) -> tuple[Rule, ...] | None:
        return self.one(((), (), super().rules()))

    def cluster_rules(self) -> tuple[ClusterRule, ...]:
        return self.one(((), (), (), super().cluster_rules()))

    def selector(self) -> Selector:
        return self.one((Selector(), super().selector(), Selector(self.many(self.requirement, 2, 1))))

    def view(self) -> PolicyView:
        found = super().view()
        more = {one.key: msgspec.structs.replace(one, labels=self.labels()) for one in MORE}
        return replace(found, pods={**found.pods, **more})


def every_decision(
    state: PolicyView,
) -> Iterator[tuple[tuple[Pod, Direction, Endpoint, Protocol | None, int], Decision]]:
    subjects = [one for one in state.pods.values() if one.ips and not one.host_network and not one.terminated]
    peers = [*(Endpoint(one.ips[0], one) for one in subjects), *map(Endpoint, OUTSIDE)]
    ports = [(Protocol.TCP, 80), (Protocol.TCP, 53), (Protocol.UDP, 53), (Protocol.SCTP, 80), (None, 0)]
    for subject, direction, peer, port in itertools.product(subjects, Direction, peers, ports):
        yield (subject, direction, peer, *port), decide(state, subject, direction, peer, *port)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 1 << 32).map(lambda seed: Wider(seed).view()),
    st.permutations(list(itertools.product(ENDS, ENDS))),
    st.sampled_from([(Protocol.TCP, 80), (Protocol.TCP, 80), (Protocol.UDP, 53), (None, 0)]),
)
def test_it_allows_the_connection_and_nothing_that_the_rule_does_not_say(
    state: PolicyView, pairs: list[tuple[str, str]], asked: tuple[Protocol | None, int]
) -> None:
    protocol, port = asked
    behind = f":{port}/{protocol.name}" if protocol else "/ICMP"
    tried = ((ends, found) for ends in pairs if (found := checked(state, *ends, behind)).policies)
    # To look at all decisions takes most of the time, so it is done for one suggestion of each cluster.
    for (source, destination), found in itertools.islice(tried, 1):
        after = with_policies(state, found)
        assert verdict(after, source, destination + behind) in ("allow", "audit")
        for (place, old), (_, new) in zip(every_decision(state), every_decision(after), strict=True):
            if old.verdict is not new.verdict:
                assert new.verdict is Verdict.ALLOW or (old.verdict, new.verdict) == (Verdict.DENY, Verdict.AUDIT)
                subject, direction, peer, *service = place
                assert tuple(service) == asked
                ends = (source, destination) if direction is Direction.EGRESS else (destination, source)
                assert_described(state, found, subject, ends[0])
                if peer.pod is None:
                    assert peer.ip == ends[1] or (ends[1] == "shop/host" and peer.ip == "192.0.2.2")
                else:
                    assert_described(state, found, peer.pod, ends[1])


def checked(state: PolicyView, source: str, destination: str, behind: str) -> Suggestion:
    """Return the suggestion; there is one exactly if policies that only isolate deny a connection that has a port."""
    found = suggested(state, source, destination + behind)
    before = explain_connection(state, SERVICES, parse_source(source), parse_destination(destination + behind))
    denying = [side for answer in before.answers for side in answer.sides if side.verdict == before.verdict]
    if before.verdict not in ("deny", "audit", "mixed"):
        assert not found.policies
    elif behind == "/ICMP" or any(side.reason == "explicit_deny" for side in denying):
        assert not found.policies or before.verdict == "mixed"
    elif before.verdict != "mixed":
        assert found.policies, f"{found.text} ({before.text})"
    return found


def assert_described(state: PolicyView, found: Suggestion, one: Pod, name: str) -> None:
    """The rule is for the pod that was asked for, for pods with its labels, or the notes say so."""
    meant = next(pod for pod in state.pods.values() if str(pod.key) == name)
    notes = [note for note in found.notes if name in note]
    assert one.namespace == meant.namespace
    assert one.labels == meant.labels or any("every pod" in note or one.name in note for note in notes)


# --- examples

DENY_ALL = NetworkPolicy("data", "default-deny", "u", Selector(), ingress=(), egress=())


def policy_of(*objects: Any, source: str = "shop/web", destination: str = "data/db:8080") -> dict[str, Any]:
    """Return the only policy that is suggested, and try it."""
    state = view(*BASE, *objects)
    found = suggested(state, source, destination)
    assert verdict(with_policies(state, found), source, destination) == "allow"
    (only,) = found.policies
    return dict(only)


def test_labels_of_a_rollout_are_not_used_and_those_of_a_release_only_if_nothing_else_is_there() -> None:
    def of(name: str, **labels: str) -> Pod:
        return pod(name, f"10.1.0.{len(labels) + len(name)}", labels={"pod-template-hash": name[-1], **labels})

    made = policy_of(
        DENY_ALL,
        of("shop/web", app="web", version="2"),
        of("shop/web-1", app="web", version="1"),
        of("shop/x", app="x"),
    )
    (rule,) = made["spec"]["ingress"]
    assert rule["from"] == [{
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
        "podSelector": {"matchLabels": {"app": "web"}},
    }]  # fmt: skip
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]
    assert made["spec"]["podSelector"] == {"matchLabels": {"app": "db"}}


def test_a_peer_of_the_same_namespace_needs_no_selector_of_namespaces() -> None:
    made = policy_of(replace(DENY_ALL, namespace="shop", ingress=None), destination="shop/four:80")
    assert made["spec"]["egress"][0]["to"] == [{"podSelector": {"matchLabels": {"app": "four"}}}]


def test_no_pod_becomes_isolated() -> None:
    """The policy that isolates asks for more than the labels that would tell the pod from others."""
    isolating = replace(DENY_ALL, pods=selector(app="db", track="canary"))
    canary = pod("data/db", "10.0.0.2", labels={"app": "db", "track": "canary"})
    made = policy_of(isolating, canary, pod("data/db-2", "10.0.0.13", labels={"app": "db"}))
    assert made["spec"]["podSelector"] == {"matchLabels": {"track": "canary", "app": "db"}}


@pytest.mark.parametrize(
    ("source", "block"), [("8.8.8.8", "8.8.8.8/32"), ("2001:db8::9", "2001:db8::9/128"), ("192.0.2.2", "192.0.2.2/32")]
)
def test_an_address_is_one_block(source: str, block: str) -> None:
    made = policy_of(DENY_ALL, source=source)
    assert made["spec"]["ingress"][0]["from"] == [{"ipBlock": {"cidr": block}}]
    found = suggested(view(*BASE, DENY_ALL), source, "data/db:8080")
    assert any("everything on that node" in note for note in found.notes) == (block == "192.0.2.2/32")


def test_both_ends_may_need_a_policy_and_a_port_name_is_the_backends_number() -> None:
    state = view(*BASE, DENY_ALL, replace(DENY_ALL, namespace="shop"))
    found = suggested(state, "shop/web", "data/db:dns/UDP")
    assert [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in found.policies] == [
        ("shop", "allow-web-to-db-53-udp"), ("data", "allow-db-from-web-53-udp"),
    ]  # fmt: skip
    assert found.text == "these 2 NetworkPolicies together would allow it"
    assert verdict(with_policies(state, found), "shop/web", "data/db:53/UDP") == "allow"


def test_a_name_that_a_policy_has_is_not_used_again() -> None:
    taken = replace(DENY_ALL, name="allow-db-from-web-8080")
    assert policy_of(DENY_ALL, taken)["metadata"]["name"] == "allow-db-from-web-8080-2"


def test_pods_that_no_label_tells_apart_are_named() -> None:
    twins = [
        pod(f"shop/{name}", f"10.0.1.{at}", labels={"pod-template-hash": name})
        for at, name in enumerate(("web", "one", "two"), 1)
    ]
    labelled = [one for one in BASE if not (isinstance(one, Pod) and one.namespace == "shop")]
    bare = suggested(view(*labelled, *twins, DENY_ALL), "shop/web", "data/db:80")
    assert bare.notes == ("no lasting label tells shop/web apart, so the rule is for every pod of namespace shop",)
    more = [
        pod("shop/one", "10.0.1.2", labels={"app": "web", "extra": "1"}),
        pod("shop/web", "10.0.0.1"),
        pod("shop/x"),
    ]
    superset = suggested(view(*labelled, *more, DENY_ALL), "shop/web", "data/db:80")
    (rule,) = superset.policies[0]["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchExpressions"] == [{"key": "extra", "operator": "DoesNotExist"}]


def test_a_policy_in_audit_mode_is_opened_by_one_in_audit_mode() -> None:
    """One that is enforced would isolate the pods, which the audited one does not."""
    made = policy_of(replace(DENY_ALL, audit=True))
    assert made["metadata"]["annotations"] == {"kubeweir.io/mode": "audit"}


DENY_RULE = (ClusterRule(Action.DENY, (Peer(Selector(), Selector()),)),)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (AdminNetworkPolicy("wall", "u", Tier.ADMIN, 1, Selector(), Selector(), DENY_RULE),
         "AdminNetworkPolicy wall (rule 0) denies ingress of data/db, and no NetworkPolicy can allow"),
        (BaselineAdminNetworkPolicy("default", "u", Tier.BASELINE, 0, Selector(), Selector(), DENY_RULE),
         "BaselineAdminNetworkPolicy default (rule 0) denies ingress of data/db in the Baseline tier. A NetworkPolicy"),
    ],
)  # fmt: skip
def test_an_explicit_denial_is_named_and_half_a_suggestion_is_not_made(policy: Any, text: str) -> None:
    source_too = replace(DENY_ALL, namespace="shop")
    found = suggested(view(*BASE, policy, source_too), "shop/web", "data/db:80")
    assert found.text.startswith(text)
    assert not found.policies


@pytest.mark.parametrize(
    ("destination", "text"),
    [
        ("data/db/ICMP", "no NetworkPolicy can name ICMP"),
        ("data/gone:80", "cannot say: there is no pod data/gone"),
        ("10.96.0.1:80", "cannot say: 10.96.0.1 is the address of Service data/db: policies are applied after DNAT"),
        ("shop/four:80", "nothing needs to be added"),
    ],
)
def test_what_cannot_be_suggested_is_said(destination: str, text: str) -> None:
    found = suggested(view(*BASE, DENY_ALL), "shop/web", destination)
    assert found.text.startswith(text)
    assert not found.policies


def test_a_namespace_that_is_not_known_is_not_guessed() -> None:
    known = [one for one in BASE if not (isinstance(one, Namespace) and one.name == "shop")]
    found = suggested(view(*known, DENY_ALL), "shop/web", "data/db:80")
    assert found.text.startswith("cannot say: with the rules that its labels and addresses lead to, it is denied")
