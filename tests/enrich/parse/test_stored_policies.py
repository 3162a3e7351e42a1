"""What a policy means that the API server has accepted once and that validation refuses today.

Each case writes the policy twice: with the wrong value, and as it counts. ``tests/probe/policy`` shows that the
compiler and the reference agree on them.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.model import Action, ClusterNetworkPolicy, NetworkPolicy
from enrich.parse.cluster_network_policy import ANYWHERE
from enrich.parse.objects import InvalidObjectError, parse
from enrich.policy.selectors import matches
from tests.enrich.parse.test_cluster_network_policy import document
from tests.enrich.parse.test_network_policy import policy

GOOD_PEER: Final = {"podSelector": {"matchLabels": {"app": "web"}}}
GOOD_BLOCK: Final = {"ipBlock": {"cidr": "10.0.0.0/8"}}


def leniently(written: dict[str, Any]) -> tuple[Any, list[str]]:
    """The policy, and the fields that it was noted for. Read strictly, as from a manifest, the first is an error."""
    with pytest.raises(InvalidObjectError) as refused:
        parse(written)
    problems: list[InvalidObjectError] = []
    read = parse(written, problems)
    fields = [problem.field for problem in problems]
    assert refused.value.field in fields
    return read, fields


def ingress(*rules: dict[str, Any]) -> dict[str, Any]:
    return policy({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": list(rules)})


BAD_PEERS: Final = [
    {"ipBlock": {"cidr": "10.0.0.0"}},
    {"ipBlock": {"cidr": "10.0.0.0/33"}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/40"]}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.0.0.0/7"]}},
    {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}},
    {"ipBlock": "10.0.0.0/8"},
    {},
    {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
    {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
    {"podSelector": {"matchLabels": {"a": 1}}},
    {"namespaceSelector": "all"},
    "everybody",
]
BAD_PORTS: Final = [
    {"port": 0}, {"port": 70000}, {"port": -1}, {"port": 80, "endPort": 79}, {"port": 80, "endPort": 70000},
    {"endPort": 80}, {"port": "web", "endPort": 80}, {"port": "Not A Name"}, {"port": 80, "protocol": "ICMP"},
    {"port": 80, "protocol": "tcp"}, {"port": True}, "80",
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_PEERS, ids=str)
def test_a_peer_that_cannot_match_is_left_out_and_the_others_stand(bad: Any) -> None:
    read, fields = leniently(ingress({"from": [GOOD_PEER, bad, GOOD_BLOCK]}, {"from": [GOOD_BLOCK]}))
    assert read == parse(ingress({"from": [GOOD_PEER, GOOD_BLOCK]}, {"from": [GOOD_BLOCK]}))
    assert all(field.startswith("spec.ingress[0].from[1]") for field in fields)


@pytest.mark.parametrize("bad", BAD_PORTS, ids=str)
def test_a_port_that_cannot_match_is_left_out_and_the_others_stand(bad: Any) -> None:
    read, fields = leniently(ingress({"ports": [{"port": 443}, bad]}))
    assert read == parse(ingress({"ports": [{"port": 443}]}))
    assert all(field.startswith("spec.ingress[0].ports[1]") for field in fields)


@pytest.mark.parametrize(
    "bad",
    [
        *({"from": [peer], "ports": [{"port": 80}]} for peer in BAD_PEERS),
        *({"from": [GOOD_PEER], "ports": [port]} for port in BAD_PORTS),
        {"from": "everybody"},
        "everything",
    ],
    ids=str,
)
def test_a_rule_of_which_nothing_is_left_allows_nothing_and_keeps_its_number(bad: Any) -> None:
    read, _ = leniently(ingress(bad, {"from": [GOOD_PEER]}))
    nothing, stands = read.ingress
    assert stands == parse(ingress({"from": [GOOD_PEER]})).ingress[0]  # type: ignore[union-attr, index]
    [peer] = nothing.peers
    assert not matches(peer.pods, {})
    assert not matches(peer.pods, {"app": "web", "kubeweir.io/unreadable": ""})


@pytest.mark.parametrize(
    ("excepts", "counted"),
    [
        (["11.0.0.0/16"], []),
        (["fd00::/16"], []),
        (["11.0.0.0/16", "10.1.0.0/16"], ["10.1.0.0/16"]),
    ],
)
def test_an_except_that_lies_elsewhere_takes_nothing_away(excepts: list[str], counted: list[str]) -> None:
    read, fields = leniently(ingress({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": excepts}}]}))
    assert read == parse(ingress({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": counted}}]}))
    assert fields == ["spec.ingress[0].from[0].ipBlock.except[0]"]


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({"matchLabels": {"a": "not a value"}}, {"a": "b"}, False),
        ({"matchLabels": {"a": "not a value"}}, {}, False),
        ({"matchLabels": {"not a key": "b"}}, {"a": "b"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["-", "b"]}]}, {"a": "b"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["-", "b"]}]}, {"a": "b"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["-", "b"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Newer"}]}, {"a": "b"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Newer"}]}, {}, False),
    ],
)
def test_a_selector_selects_nobody_by_a_value_that_nobody_can_have(
    selector: dict[str, Any], labels: dict[str, str], *, expected: bool
) -> None:
    """The policy's own selector too: it closes no pod that it does not select, let alone the namespace."""
    as_subject, _ = leniently(policy({"podSelector": selector}))
    assert isinstance(as_subject, NetworkPolicy)
    assert matches(as_subject.pods, labels) == expected
    as_peer, _ = leniently(ingress({"from": [{"podSelector": selector}]}))
    assert matches(as_peer.ingress[0].peers[0].pods, labels) == expected


def test_an_unknown_type_counts_as_both() -> None:
    read, _ = leniently(policy({"podSelector": {}, "policyTypes": ["ingress"]}))
    assert (read.ingress, read.egress) == ((), ())


# --- ClusterNetworkPolicy: a rule that denies never denies less

NETWORK: Final = {"networks": ["10.0.0.0/8"]}
BAD_NETWORK: Final = {"networks": ["10.0.0.0/33"]}


def tcp(number: int) -> dict[str, Any]:
    return {"tcp": {"destinationPort": {"number": number}}}


def rule(action: str, to: list[Any], *protocols: dict[str, Any]) -> dict[str, Any]:
    return {"action": action, "to": to, **({"protocols": list(protocols)} if protocols else {})}


ANY: Final[list[Any]] = [{"networks": ["0.0.0.0/0"]}, {"networks": ["::/0"]}]
CLUSTER_RULES: Final = [
    (rule("Accept", [NETWORK, BAD_NETWORK], tcp(80)), rule("Accept", [NETWORK], tcp(80))),
    (rule("Accept", [NETWORK], tcp(80), tcp(70000)), rule("Accept", [NETWORK], tcp(80))),
    (rule("Accept", [BAD_NETWORK]), None),
    (rule("Accept", [NETWORK], tcp(70000)), None),
    (rule("Accept", [NETWORK, {"domainNames": ["a.example"]}]), None),
    (rule("Accept", []), None),
    (rule("Deny", [NETWORK, BAD_NETWORK], tcp(80)), rule("Deny", ANY, tcp(80))),
    (rule("Deny", [NETWORK], tcp(80), tcp(70000)), rule("Deny", [NETWORK])),
    (rule("Deny", [NETWORK, {"somethingNew": {}}], tcp(80)), rule("Deny", ANY)),
    (rule("Deny", [{"pods": {"podSelector": {}}}, BAD_NETWORK], {"destinationNamedPort": "web"}), rule("Deny", ANY)),
    (rule("Deny", []), rule("Deny", ANY)),
    (rule("Pass", [NETWORK, BAD_NETWORK], tcp(80)), rule("Deny", ANY, tcp(80))),
    (rule("Refuse", [NETWORK], tcp(80)), rule("Deny", [NETWORK], tcp(80))),
    (
        rule("Deny", [{"namespaces": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["-", "b"]}]}}]),
        rule("Deny", [{"namespaces": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}}]),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("written", "counts_as"), CLUSTER_RULES, ids=str)
def test_a_cluster_rule_accepts_no_more_and_denies_no_less_than_it_says(
    written: dict[str, Any], counts_as: dict[str, Any] | None
) -> None:
    after = rule("Deny", [{"networks": ["192.0.2.0/24"]}])
    read, _ = leniently(document(egress=[written, after]))
    assert isinstance(read, ClusterNetworkPolicy)
    found, stands = read.egress
    expected = parse(document(egress=[counts_as or after, after]))
    assert isinstance(expected, ClusterNetworkPolicy)
    assert stands == expected.egress[1]
    if counts_as is None:
        assert (found.action, found.peers) == (Action.ACCEPT, ())
    elif "NotIn" in str(counts_as):
        for labels in ({}, {"a": "b"}, {"a": "c"}):
            selectors = found.peers[0].namespaces, expected.egress[0].peers[0].namespaces
            assert all(selector is not None for selector in selectors)
            assert len({matches(selector, labels) for selector in selectors if selector}) == 1
    else:
        assert found == expected.egress[0]


@pytest.mark.parametrize("wrong", [{"tier": "Network"}, {"priority": 5000}, {"subject": {"odd": {}}}])
def test_where_a_cluster_policy_applies_is_wrong_it_only_denies(wrong: dict[str, Any]) -> None:
    read, _ = leniently(document(**{"egress": [rule("Accept", [NETWORK]), rule("Deny", [NETWORK])], **wrong}))
    accepts, denies = read.egress
    assert (accepts.peers, denies.action) == ((), Action.DENY)
    assert denies.peers != ANYWHERE


_FIELDS: Final = (
    "ingress", "egress", "from", "to", "ports", "port", "endPort", "protocol", "ipBlock", "cidr", "except",
    "podSelector", "namespaceSelector", "matchLabels", "matchExpressions", "key", "operator", "values", "policyTypes",
    "subject", "namespaces", "pods", "networks", "nodes", "domainNames", "action", "protocols", "tcp", "number",
    "range", "destinationPort", "destinationNamedPort", "start", "end", "name", "tier", "priority",
)  # fmt: skip
_TEXTS: Final = (
    "",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "::/0",
    "TCP",
    "In",
    "Exists",
    "Deny",
    "Accept",
    "Ingress",
    "web",
    "-",
)
_JSON: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 70000), st.sampled_from(_TEXTS)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=5))
def test_whatever_is_stored_it_is_read_or_an_invalid_object(written: dict[str, Any]) -> None:
    """Any other exception would end the watch of the kind, and with it every later policy."""
    for made in (policy(written), document(**written), ingress(written), document(egress=[written], ingress=[written])):
        with contextlib.suppress(InvalidObjectError):
            parse(made, [])
