"""Tests of explanations: they explain every rule, and they agree with the engine's decision."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.explain.explanation import Explanation, explain_connection
from enrich.explain.one_end import Connection, EndDecision, end_decisions, without_audited
from enrich.explain.query import QuerySyntaxError, parse_destination, parse_source
from enrich.label_selector import Operator, Requirement, Selector
from enrich.model import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    IPBlock,
    Name,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Peer,
    Pod,
    PolicyPort,
    Protocol,
    Rule,
    Service,
    Tier,
)
from enrich.policy.decide import decide
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import Reason, Verdict
from tests.schemas import load, validator

CLOSED = validator(load("explanation"), closed=True)

EVERY = Selector()
HTTP = NamedPort("http", 8080, Protocol.TCP)


def selector(**labels: str) -> Selector:
    return Selector(tuple(Requirement(key, Operator.IN, (value,)) for key, value in labels.items()))


def pod(name: str, *ips: str, labels: dict[str, str] | None = None, node: str = "n1", **rest: Any) -> Pod:
    namespace, _, short = name.partition("/")
    return Pod(namespace, short, f"uid-{name}", labels or {"app": short}, ips, node, **rest)


def view(*objects: Object) -> PolicyView:
    def of(kind: type) -> dict[Any, Any]:
        return {one.key: one for one in objects if isinstance(one, kind)}

    return PolicyView(of(Pod), of(Namespace), of(Node), of(NetworkPolicy), of(ClusterNetworkPolicy))


BASE = (
    Namespace("shop", "u", {"kubernetes.io/metadata.name": "shop", "team": "b"}),
    Namespace("data", "u", {"kubernetes.io/metadata.name": "data", "team": "a"}),
    Node("n1", "u", {"role": "worker"}, ("192.0.2.1", "2001:db8::1")),
    Node("n2", "u", {}, ("192.0.2.2",)),
    pod("shop/web", "10.0.0.1", "fd00::1"),
    pod("data/db", "10.0.0.2", "fd00::2", ports=(HTTP, NamedPort("dns", 53, Protocol.UDP))),
    pod("shop/four", "10.0.0.3"),
    pod("shop/host", "192.0.2.2", node="n2", host_network=True),
    pod("shop/done", "10.0.0.9", terminated=True),
    pod("shop/young"),
)
SERVICES = {Name("data", "db"): Service("data", "db", "u", ("10.96.0.1",))}


def ask(source: str, destination: str, *policies: Any) -> Explanation:
    found = explain_connection(view(*BASE, *policies), SERVICES, parse_source(source), parse_destination(destination))
    CLOSED.validate(msgspec.json.decode(msgspec.json.encode(found)))
    return found


def netpol(name: str, *rules: Rule, pods: Selector = EVERY, audit: bool = False) -> NetworkPolicy:
    namespace, _, short = name.partition("/")
    return NetworkPolicy(namespace, short, "u", pods, ingress=rules, audit=audit)


def cnp(name: str, *rules: ClusterRule, priority: int = 1, tier: Tier = Tier.ADMIN, **rest: Any) -> Any:
    return ClusterNetworkPolicy(name, "u", tier, priority, Selector(), Selector(), ingress=rules, **rest)


def misses(rule: Rule, source: str = "shop/web", destination: str = "data/db:80") -> list[tuple[str, str]]:
    """Return the mismatches of the only rule of the only policy at the destination, for IPv4."""
    (side,) = [
        side
        for side in ask(source, destination, netpol("data/p", rule)).answers[0].sides
        if side.direction == "ingress"
    ]
    (account,) = side.tiers[1].policies
    return [(miss.term, miss.text) for miss in account.rules[0].failed]


A_TEAM, B_TEAM = Peer(selector(team="a")), Peer(selector(team="b"))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            Rule((Peer(selector(team="a")),)),
            [("from[0].namespaceSelector", "requires team=a, but namespace shop has team=b")],
        ),
        (
            Rule((Peer(selector(team="b"), selector(app="api")), Peer(None, selector(app="web")))),
            [
                ("from[0].podSelector", "requires app=api, but pod shop/web has app=web"),
                ("from[1].podSelector", "selects only pods of namespace data, but shop/web is in shop"),
            ],
        ),
        (
            Rule((Peer(Selector((Requirement("tier", Operator.EXISTS), Requirement("app", Operator.NOT_IN, ("web",)))),
                       None),)),
            [("from[0].namespaceSelector", "requires tier (any value), but namespace shop has no label tier")],
        ),
        (
            Rule((Peer(Selector(), Selector((Requirement("app", Operator.DOES_NOT_EXIST),
                                             Requirement("x", Operator.IN, ("1", "2"))))),)),
            [("from[0].podSelector", "requires no label app, x in (1, 2), but pod shop/web has app=web, no label x")],
        ),
        (Rule((Peer(ip_block=IPBlock("192.0.2.0/24")),)), [("from[0].ipBlock", "10.0.0.1 is not in 192.0.2.0/24")]),
        (
            Rule((Peer(ip_block=IPBlock("0.0.0.0/0", ("10.0.0.0/8",))),)),
            [("from[0].ipBlock", "10.0.0.1 is in the exception 10.0.0.0/8 of 0.0.0.0/0")],
        ),
        (Rule((Peer(ip_block=IPBlock("::/0")),)), [("from[0].ipBlock", "::/0 is IPv6, but 10.0.0.1 is IPv4")]),
        (
            Rule((), (PolicyPort(Protocol.TCP, 443), PolicyPort(Protocol.UDP, 8000, 8080), PolicyPort(Protocol.SCTP))),
            [("ports", "port 80/TCP is not among 443/TCP, 8000-8080/UDP, any/SCTP")],
        ),
        (
            Rule((), (PolicyPort(Protocol.TCP, "http"), PolicyPort(Protocol.TCP, "web"))),
            [("ports",
              "port 80/TCP is not among http/TCP (8080 on pod data/db), web/TCP (no such port on pod data/db)")],
        ),
        (
            Rule((A_TEAM,), (PolicyPort(Protocol.TCP, 443),)),
            [
                ("from[0].namespaceSelector", "requires team=a, but namespace shop has team=b"),
                ("ports", "port 80/TCP is not among 443/TCP"),
            ],
        ),
        # One matching peer is enough: the others are not reported as mismatches.
        (Rule((A_TEAM, B_TEAM), (PolicyPort(Protocol.TCP, 443),)), [("ports", "port 80/TCP is not among 443/TCP")]),
        (Rule((A_TEAM, B_TEAM)), []),
    ],
)  # fmt: skip
def test_a_mismatch_names_the_selector_and_the_difference(rule: Rule, expected: list[tuple[str, str]]) -> None:
    assert misses(rule) == expected


def test_an_address_matches_no_pod_selector_and_a_host_network_pod_is_its_node() -> None:
    rule = Rule((Peer(Selector()), Peer(None, Selector())))
    for source, address in (("8.8.8.8", "8.8.8.8"), ("shop/host", "192.0.2.2"), ("192.0.2.2", "192.0.2.2")):
        assert misses(rule, source) == [
            ("from[0].namespaceSelector", f"selects pods, but {address} is not a pod's own address"),
            ("from[1].podSelector", f"selects pods, but {address} is not a pod's own address"),
        ]


def test_a_named_port_matches_no_address() -> None:
    policy = NetworkPolicy("shop", "p", "u", Selector(), egress=(Rule((), (PolicyPort(Protocol.TCP, "http"),)),))
    found = ask("shop/web", "8.8.8.8:8080", policy)
    text = found.answers[0].sides[0].tiers[1].policies[0].rules[0].failed[0].text
    assert text == "port 8080/TCP is not among http/TCP (the destination is not a pod, so the name means no port)"


def test_icmp_is_matched_only_by_rules_without_ports() -> None:
    (miss,) = misses(Rule((), (PolicyPort(Protocol.TCP),)), destination="data/db/ICMP")
    assert miss == ("ports", "a rule with ports never matches ICMP, which has no ports: any/TCP")
    assert misses(Rule((Peer(Selector()),)), destination="data/db/icmp") == []
    assert ask("shop/web", "data/db/icmp", netpol("data/p", Rule())).verdict == "allow"
    assert ask("shop/web", "data/db/icmp", cnp("x", ClusterRule(Action.DENY, (Peer(Selector()),)))).verdict == "deny"


# --- tiers


def the_side(found: Explanation) -> EndDecision:
    (side,) = [side for side in found.answers[0].sides if side.direction == "ingress"]
    return side


ANYONE = (Peer(Selector(), Selector()),)


def test_tiers_are_in_order_with_matching_passing_and_shadowed_rules() -> None:
    side = the_side(ask(
        "shop/web", "data/db:80",
        cnp("first", ClusterRule(Action.DENY, (Peer(selector(team="a"), Selector()),), name="own"),
            ClusterRule(Action.PASS, ANYONE), priority=1),
        cnp("second", ClusterRule(Action.ACCEPT, ANYONE), priority=2),
        netpol("data/np", Rule(ANYONE)),
        cnp("base", ClusterRule(Action.DENY, ANYONE), tier=Tier.BASELINE),
    ))  # fmt: skip
    assert [(tier.tier, tier.asked, tier.outcome) for tier in side.tiers] == [
        ("Admin", True, "pass"), ("NetworkPolicy", True, "accept"), ("Baseline", False, "deny"),
    ]  # fmt: skip
    first, second = side.tiers[0].policies
    assert [(rule.name, rule.matched, rule.shadowed_by) for rule in first.rules] == [
        ("own", False, None), ("", True, None),
    ]  # fmt: skip
    assert first.rules[0].failed[0].text == "requires team=a, but namespace shop has team=b"
    shadow = second.rules[0].shadowed_by
    assert shadow is not None
    assert (shadow.kind, shadow.name, shadow.rule) == ("ClusterNetworkPolicy", "first", 1)
    assert side.text == "allowed by data/np (rule 0)"


def test_a_policy_in_audit_mode_is_shown_and_does_not_decide() -> None:
    side = the_side(ask("shop/web", "data/db:80", netpol("data/np", Rule(ANYONE)), netpol("data/other", audit=True)))
    assert side.verdict == "allow"
    assert [(account.name, account.audit, account.left_out) for account in side.tiers[1].policies] == [
        ("np", False, False), ("other", True, True),
    ]  # fmt: skip


def test_audit_mode_explains_the_verdict_and_the_enforced_one() -> None:
    found = ask("shop/web", "data/db:80", netpol("data/np", audit=True))
    assert found.verdict == "audit"
    assert found.text == "passes in audit mode: enforced, it would be denied at the destination (ingress)"
    assert the_side(found).text == (
        "passes in audit mode. Enforced, it would be denied by default: 1 policy isolates the pod, and none of its "
        "rules matches. Today it is allowed: no policy isolates the pod for ingress"
    )


def test_policies_that_do_not_select_the_pod_are_explained() -> None:
    egress_only = NetworkPolicy("data", "out", "u", Selector(), egress=())
    other = ClusterNetworkPolicy(
        "c", "u", Tier.ADMIN, 1, selector(team="z"), Selector(), (ClusterRule(Action.DENY, ()),)
    )
    side = the_side(ask("shop/web", "data/db:80", netpol("data/typo", pods=selector(app="bd")), egress_only, other))
    assert side.reason == "no_policy"
    assert [(one.name, one.text) for one in side.unselecting] == [
        ("out", "applies to egress only"),
        ("typo", "podSelector requires app=bd, but the pod has app=db"),
        ("c", "subject requires team=z, but namespace data has team=a"),
    ]


# --- ends


@pytest.mark.parametrize(
    ("source", "destination", "verdict", "text"),
    [
        ("shop/web", "data/db:80", "allow", "allowed"),
        ("shop/wep", "data/db:80", "unknown", "there is no pod shop/wep; did you mean shop/web?"),
        ("data/web", "data/db:80", "unknown", "there is no pod data/web; did you mean shop/web?"),
        ("none/zzzz", "data/db:80", "unknown",
         "there is no pod none/zzzz, and no namespace none; known namespaces: data, shop"),
        ("data/qqqqq", "data/db:80", "unknown", "there is no pod data/qqqqq; pods of namespace data: data/db"),
        ("shop/done", "data/db:80", "unknown",
         "shop/done has terminated (Succeeded or Failed): it has no address and no connections"),
        ("shop/web", "shop/young:80", "unknown",
         "shop/young has no address yet (status.podIPs): wait until it runs, or give the manifest a status"),
        ("1.1.1.1", "2.2.2.2:80", "unknown",
         "neither 1.1.1.1 nor 2.2.2.2 is a pod: policies apply to connections of pods only"),
        ("192.0.2.1", "192.0.2.2:80", "unknown",
         "neither n1 nor n2 is a pod: policies apply to connections of pods only"),
        ("shop/host", "192.0.2.1:80", "allow", "allowed: no policy applies to either end"),
        ("shop/four", "[fd00::2]:80", "unknown",
         "no address family in common: shop/four has 10.0.0.3, data/db has fd00::2"),
        ("10.96.0.1", "data/db:80", "unknown",
         "10.96.0.1 is the address of Service data/db: connections come from pods, never from a Service"),
        ("shop/web", "data/db:web", "unknown",
         "no port is named 'web' (TCP) on data/db, which has http=8080/TCP, dns=53/UDP; write a port number"),
        ("shop/web", "data/db:dns/udp", "allow", "allowed"),
    ],
)  # fmt: skip
def test_ends_are_resolved_or_the_text_says_why_not(source: str, destination: str, verdict: str, text: str) -> None:
    found = ask(source, destination)
    assert (found.verdict, found.text) == (verdict, text)


def test_a_service_as_destination_is_unknown_and_the_text_says_why() -> None:
    found = ask("shop/web", "10.96.0.1:80")
    assert found.verdict == "unknown"
    assert "Service data/db: policies are applied after DNAT" in found.text


@pytest.mark.parametrize(
    ("end", "note"),
    [
        ("10.0.0.1", "10.0.0.1 is pod shop/web"),
        ("::ffff:10.0.0.1", "10.0.0.1 is pod shop/web"),
        ("192.0.2.2", "192.0.2.2 is node n2: no policy selects a node"),
        ("10.0.0.9", "10.0.0.9 was the address of pod shop/done, which has terminated: no pod has it now"),
        ("8.8.8.8", "no known pod, node or Service has 8.8.8.8: it counts as an address outside the cluster"),
        ("shop/host", "shop/host uses hostNetwork: policies see it as its node, n2, and no policy selects it"),
    ],
)
def test_notes_identify_the_ends(end: str, note: str) -> None:
    assert note in ask(end, "data/db:80").notes


def test_a_note_says_that_a_later_pod_claims_the_address() -> None:
    late = msgspec.structs.replace(pod("shop/late", "10.0.0.1"), started_ns=5)
    notes = ask("shop/web", "data/db:80", late).notes
    assert any("10.0.0.1 of shop/web is also claimed by shop/late" in note for note in notes)


def test_each_family_has_an_answer_and_differing_ones_are_mixed() -> None:
    found = ask("shop/web", "data/db:80", netpol("data/p", Rule((Peer(ip_block=IPBlock("10.0.0.0/8")),))))
    assert [answer.verdict for answer in found.answers] == ["allow", "deny"]
    assert (found.verdict, found.text) == ("mixed", "it depends on the address: 10.0.0.2 allowed, fd00::2 denied")
    assert (
        ask("shop/web", "[fd00::2]:80", netpol("data/p", Rule((Peer(ip_block=IPBlock("10.0.0.0/8")),)))).verdict
        == "deny"
    )


@pytest.mark.parametrize("text", ["web", "shop/web:80", "shop/web/udp", "a/b/c/d", "", "10.0.0.1/24", "[10.0.0.1", "/"])
def test_an_invalid_source_is_a_syntax_error(text: str) -> None:
    with pytest.raises(QuerySyntaxError):
        parse_source(text)


@pytest.mark.parametrize(
    "text",
    [
        "web:80",
        "shop/web",
        "shop/web:0",
        "shop/web:65536",
        "shop/web:80/x",
        "fd00::1:80",
        "shop/web:80/icmp",
        "10.0.0.1",
    ],
)
def test_an_invalid_destination_is_a_syntax_error(text: str) -> None:
    with pytest.raises(QuerySyntaxError):
        parse_destination(text)


# --- the same verdict as the engine's

KEYS, VALUES = ("app", "team"), ("a", "b")
BLOCKS = (
    IPBlock("0.0.0.0/0", ("10.0.0.0/30",)), IPBlock("10.0.0.0/30"), IPBlock("192.0.2.0/24"), IPBlock("::/0"),
    IPBlock("8.0.0.0/8", ("8.8.0.0/16",)),
)  # fmt: skip
ENDS = ("shop/web", "data/db", "192.0.2.1", "shop/host", "8.8.8.8")


class Draw:
    """A random cluster from a seed. Two of three selectors select everything, and half of all rules list no ports: else
    nearly no connection would be selected by all that it takes to be judged."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - to be had again
        self.one = self._random.choice

    def many(self, make: Callable[[], Any], most: int, least: int = 0) -> tuple[Any, ...]:
        return tuple(make() for _ in range(self._random.randint(least, most)))

    def view(self) -> PolicyView:
        homes = [
            Namespace(name, "u", {**self.labels(), "kubernetes.io/metadata.name": name}, self.one((True, False, False)))
            for name in ("shop", "data")
        ]
        pods = [msgspec.structs.replace(one, labels=self.labels()) for one in BASE if isinstance(one, Pod)]
        policies = (*self.many(self.policy, 3), *self.many(self.cluster_policy, 5))
        return view(*BASE, *homes, *pods, *policies)

    def labels(self) -> dict[str, str]:
        return {key: self.one(VALUES) for key in KEYS if self.one((True, True, False))}

    def selector(self) -> Selector:
        return self.one((EVERY, EVERY, Selector(self.many(self.requirement, 2, 1))))

    def requirement(self) -> Requirement:
        operator = self.one(tuple(Operator))
        values = self.one((("a",), ("b",), ("a", "b"))) if operator in (Operator.IN, Operator.NOT_IN) else ()
        return Requirement(self.one(KEYS), operator, values)

    def peer(self) -> Peer:
        return self.one((
            Peer(self.selector()), Peer(self.selector(), self.selector()), Peer(None, self.selector()),
            Peer(ip_block=self.one(BLOCKS)),
        ))  # fmt: skip

    def cluster_peer(self) -> Peer:
        block, nodes = Peer(ip_block=self.one(BLOCKS)), Peer(nodes=self.selector())
        return self.one((Peer(self.selector(), self.selector()), Peer(EVERY, self.selector()), block, nodes))

    def ports(self) -> tuple[PolicyPort, ...]:
        return self.one(((), self.many(self.port, 2, 1)))

    def port(self) -> PolicyPort:
        number = self.one((None, 80, 8080, "http", "dns"))
        return self.one((PolicyPort(self.one(tuple(Protocol)), number), PolicyPort(Protocol.TCP, 80, 90)))

    def rules(self) -> tuple[Rule, ...] | None:
        return self.one((None, self.many(lambda: Rule(self.many(self.peer, 2), self.ports()), 2)))

    def cluster_rules(self) -> tuple[ClusterRule, ...]:
        return self.many(lambda: ClusterRule(self.one(tuple(Action)), self.many(self.cluster_peer, 2), self.ports()), 3)

    def policy(self) -> NetworkPolicy:
        home, name, audit = self.one(("shop", "data")), self.one("pqr"), self.one((True, False, False))
        return NetworkPolicy(home, name, "u", self.selector(), self.rules(), self.rules(), audit)

    def cluster_policy(self) -> ClusterNetworkPolicy:
        return ClusterNetworkPolicy(
            self.one("vwxyz"), "u", self.one(tuple(Tier)), self.one((0, 1, 2)), self.selector(), self.selector(),
            self.cluster_rules(), self.cluster_rules(), self.one((True, False, False)),
        )  # fmt: skip


clusters = st.integers(0, 1 << 32).map(lambda seed: Draw(seed).view())


@settings(deadline=None, max_examples=200)
@given(clusters, st.sampled_from([*Protocol, None]), st.sampled_from([80, 85, 8080, 53]))
def test_it_never_says_another_thing_than_the_engine(state: PolicyView, protocol: Protocol | None, port: int) -> None:
    behind = f":{port}/{protocol.name}" if protocol else "/ICMP"
    for source, destination in itertools.product(ENDS, ENDS):
        found = explain_connection(state, {}, parse_source(source), parse_destination(destination + behind))
        for answer in found.answers:
            for side in answer.sides:
                agrees(state, side, answer.source_ip, answer.destination_ip, protocol, port if protocol else 0)
            verdicts = {side.verdict for side in answer.sides}
            assert answer.verdict == next((one for one in ("deny", "audit") if one in verdicts), "allow")


def agrees(
    state: PolicyView, side: EndDecision, source_ip: str, destination_ip: str, protocol: Protocol | None, port: int
) -> None:
    """The side is the engine's decision, and follows from its own accounts."""
    direction = Direction[side.direction.upper()]
    ip = destination_ip if direction is Direction.EGRESS else source_ip
    holder = next((one for one in state.pods.values() if ip in one.ips and not one.host_network), None)
    subject = state.pods[Name(side.namespace, side.pod)]
    decision = decide(state, subject, direction, Endpoint(ip, holder), protocol, port)
    assert (side.verdict, side.reason, side.policies) == (
        decision.verdict.name.lower(), decision.reason.name.lower(), decision.policies,
    )  # fmt: skip
    for tier in side.tiers:
        for account in tier.policies:
            for rule in account.rules:
                assert rule.matched == (not rule.failed) == bool(rule.text)
    asked = [tier for tier in side.tiers if tier.asked]
    if not asked:
        assert side.reason == "self" or (side.reason, direction) == ("node", Direction.INGRESS)
        return
    assert all(tier.outcome in ("none", "pass") for tier in asked[:-1])
    assert (asked[-1].outcome == "deny") == (decision.verdict is not Verdict.ALLOW)
    assert (asked[-1].outcome == "accept") == (decision.reason is Reason.POLICY)
    assert took(asked[-1]) == {(ref.kind, ref.namespace, ref.name, ref.rule) for ref in decision.policies}


def took(tier: Any) -> set[tuple[str, str, str, int | None]]:
    """What the accounts of the tier that was asked last name as the policies that decided."""
    counting = [account for account in tier.policies if not account.left_out]
    hits = {
        (account.kind, account.namespace, account.name, rule.rule)
        for account in counting
        for rule in account.rules
        if rule.matched and rule.shadowed_by is None
    }
    if tier.outcome in ("accept", "deny") and hits:
        return hits
    return (
        {(account.kind, account.namespace, account.name, None) for account in counting}
        if tier.outcome == "deny"
        else set()
    )


@settings(deadline=None, max_examples=40)
@given(clusters, st.sampled_from(ENDS))
def test_every_explanation_fits_the_schema(state: PolicyView, source: str) -> None:
    found = explain_connection(state, {}, parse_source(source), parse_destination("data/db:80"))
    CLOSED.validate(msgspec.json.decode(msgspec.json.encode(found)))


@settings(deadline=None, max_examples=60)
@given(clusters)
def test_without_the_audited_policies_nothing_is_audited(state: PolicyView) -> None:
    enforced = without_audited(state)
    ends = Endpoint("10.0.0.1", state.pods[Name("shop", "web")]), Endpoint("10.0.0.2", state.pods[Name("data", "db")])
    asked = Connection(*ends, Protocol.TCP, 80)
    assert [side.verdict != "deny" for side in end_decisions(state, asked)] == [
        side.verdict == "allow" for side in end_decisions(enforced, asked)
    ]
