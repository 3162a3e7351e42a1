"""Whether one rule always matches what another one matches."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.history.advice.containment import are_peers_in, are_ports_in, are_subjects_in, is_block_in, is_selector_in
from enrich.label_selector import Operator, Requirement, Selector
from enrich.model import IPBlock, NetworkPolicy, Pod, PolicyPort, Protocol
from enrich.policy import selectors
from enrich.policy.matching import Endpoint, block_matches, port_matches, rule_matches
from tests.enrich.history.advice.policies import cluster_policy, from_web, network_policy
from tests.enrich.history.advice.shop import view
from tests.probe.policy.random_clusters import labels, network_policies

pytestmark = pytest.mark.property


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    operator = draw(st.sampled_from(list(Operator)))
    values = draw(st.lists(st.sampled_from("12"), max_size=2, unique=True))
    return Requirement(draw(st.sampled_from("xy")), operator, tuple(values))


some_selectors = st.lists(requirements(), max_size=3).map(lambda found: Selector(tuple(found)))


@settings(max_examples=300)
@given(some_selectors, some_selectors, labels)
def test_a_selector_that_is_contained_matches_nothing_else(
    inner: Selector, outer: Selector, found: dict[str, str]
) -> None:
    if is_selector_in(inner, outer) and selectors.matches(inner, found):
        assert selectors.matches(outer, found)


def test_selectors_that_are_contained() -> None:
    web = Requirement("app", Operator.IN, ("web",))
    for wider in (
        Selector(),
        Selector((Requirement("app", Operator.IN, ("api", "web")),)),
        Selector((Requirement("app", Operator.EXISTS),)),
        Selector((Requirement("app", Operator.NOT_IN, ("db",)),)),
    ):
        assert is_selector_in(Selector((web,)), wider)
        assert not is_selector_in(wider, Selector((web,)))
    assert is_selector_in(
        Selector((Requirement("x", Operator.DOES_NOT_EXIST),)), Selector((Requirement("x", Operator.NOT_IN, ("1",)),))
    )


@st.composite
def blocks(draw: st.DrawFn) -> IPBlock:
    cidrs = ["10.0.0.0/29", "10.0.0.0/30", "10.0.0.4/30", "10.0.0.2/31", "10.0.0.2/32", "10.0.0.6/32"]
    outer = draw(st.sampled_from(cidrs))
    holes = st.lists(st.sampled_from(cidrs), max_size=2, unique=True)
    return IPBlock(outer, tuple(draw(holes)))


@settings(max_examples=300)
@given(blocks(), blocks())
def test_a_block_that_is_contained_has_no_other_address(inner: IPBlock, outer: IPBlock) -> None:
    if is_block_in(inner, outer):
        for address in ipaddress.ip_network("10.0.0.0/28"):
            assert not block_matches(inner, str(address)) or block_matches(outer, str(address))


@st.composite
def ports(draw: st.DrawFn) -> tuple[PolicyPort, ...]:
    def port() -> PolicyPort:
        protocol = draw(st.sampled_from([Protocol.TCP, Protocol.UDP]))
        number = draw(st.sampled_from([None, 1, 2, 3]))
        end = draw(st.sampled_from([None, 3, 65_535])) if number else None
        return PolicyPort(protocol, number, end)

    return tuple(port() for _ in range(draw(st.integers(0, 2))))


@settings(max_examples=300)
@given(ports(), ports())
def test_ports_that_are_contained_match_no_other(inner: tuple[PolicyPort, ...], outer: tuple[PolicyPort, ...]) -> None:
    def match(found: tuple[PolicyPort, ...], protocol: Protocol, port: int) -> bool:
        return not found or any(port_matches(one, None, protocol, port) for one in found)

    if are_ports_in(inner, outer):
        for protocol in Protocol:
            for port in (1, 2, 3, 4, 65_535):
                assert not match(inner, protocol, port) or match(outer, protocol, port)


@settings(max_examples=300)
@given(network_policies("one"), network_policies("two"), labels, labels)
def test_a_rule_that_is_contained_matches_nothing_else(
    one: NetworkPolicy, two: NetworkPolicy, own: dict[str, str], others: dict[str, str]
) -> None:
    state = view("a", "b")
    for mine in one.ingress or ():
        for other in two.ingress or ():
            if not are_peers_in(one, mine.peers, two, other.peers) or not are_ports_in(mine.ports, other.ports):
                continue
            for namespace in ("a", "b"):
                for ip in ("10.0.0.3", "203.0.113.9", "192.168.0.1"):
                    pod = Pod(namespace, "p", "p", others, (ip,))
                    for end in (Endpoint(ip), Endpoint(ip, pod)):
                        destination = Pod("a", "d", "d", own)
                        for port in (80, 81):
                            found = [
                                rule_matches(state, policy.namespace, rule, end, destination, Protocol.TCP, port)
                                for policy, rule in ((one, mine), (two, other))
                            ]
                            assert found[1] or not found[0]


def test_subjects_of_a_policy_of_all_namespaces() -> None:
    own, everybody = network_policy("db", from_web()), cluster_policy("all", {})
    assert are_subjects_in(own, everybody)
    assert not are_subjects_in(everybody, own)
    assert not are_subjects_in(own, network_policy("db", from_web(), "other"))
