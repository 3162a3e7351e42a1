"""Which rules allow everything that another one allows: the index finds what comparing all finds, and compares few."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from enrich.history.advice import covering as module
from enrich.history.advice.containment import are_peers_in, are_ports_in, are_subjects_in
from enrich.history.advice.covering import Covering
from enrich.model import NetworkPolicy
from enrich.policy.decide import rules_in
from enrich.policy.matching import Direction
from enrich.wire.references import PolicyRef
from tests.enrich.history.advice.policies import network_policy

_RULES = 500
_BLOCKS = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "::/0", "fd00::/8", "fd00:1::/32")
_PORTS: tuple[dict[str, Any], ...] = (
    {}, {"port": 80}, {"port": 81}, {"port": "http"}, {"port": 1, "endPort": 65535}, {"port": 80, "endPort": 81},
    {"port": 80, "endPort": 80}, {"port": 80, "protocol": "UDP"}, {"protocol": "UDP"},
)  # fmt: skip


def plain(policies: Sequence[NetworkPolicy], policy: NetworkPolicy, index: int) -> Iterator[PolicyRef]:
    """Compare a rule with all others."""
    rule = (policy.ingress or ())[index]
    for other_policy in policies:
        for number, other in enumerate(other_policy.ingress or ()):
            pairs = ((policy, rule, other_policy, other), (other_policy, other, policy, rule))
            is_in, is_around = (
                are_subjects_in(inner, outer) and are_ports_in(one.ports, two.ports)
                and are_peers_in(inner, one.peers, outer, two.peers)
                for inner, one, outer, two in pairs
            )  # fmt: skip
            earlier = (other_policy.key, number) < (policy.key, index)
            if (other_policy.key, number) != (policy.key, index) and is_in and (earlier or not is_around):
                yield PolicyRef("NetworkPolicy", other_policy.namespace, other_policy.name, number)


def _selector(rng: random.Random) -> dict[str, Any]:
    expressions = []
    for key in rng.sample("ab", rng.choice((0, 1, 1, 2))):
        operator = rng.choice(("In", "In", "In", "NotIn", "Exists", "DoesNotExist"))
        values = {"values": rng.sample("xyz", rng.choice((1, 1, 2)))} if operator.endswith("In") else {}
        expressions.append({"key": key, "operator": operator, **values})
    return {"matchExpressions": expressions}


def _peer(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.3:
        cidr = rng.choice(_BLOCKS)
        holes = [one for one in ("10.1.2.3/32", "10.1.0.0/16") if cidr == "10.0.0.0/8"]
        return {"ipBlock": {"cidr": cidr, "except": rng.sample(holes, rng.randint(0, len(holes)))}}
    fields = rng.choice((["podSelector"], ["namespaceSelector"], ["podSelector", "namespaceSelector"]))
    own = {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}
    return {field: own if field[0] == "n" and rng.random() < 0.3 else _selector(rng) for field in fields}


def _policies(rng: random.Random) -> list[NetworkPolicy]:
    return [
        network_policy(
            name,
            {
                "podSelector": _selector(rng) if rng.random() < 0.5 else {},
                "ingress": [
                    {
                        "from": [_peer(rng) for _ in range(rng.choice((0, 1, 1, 2)))],
                        "ports": rng.sample(_PORTS, rng.choice((0, 1, 1, 2))),
                    }
                    for _ in range(rng.randint(0, 4))
                ],
            },
        )
        for name in "abc"
    ]


def test_the_index_finds_what_comparing_all_rules_finds() -> None:
    rng = random.Random(20261130)  # noqa: S311 - the same policies each time
    asked = covered = 0
    for _ in range(120):
        policies = _policies(rng)
        found = Covering(policies, Direction.INGRESS)
        for policy in policies:
            for index in range(len(policy.ingress or ())):
                expected = list(plain(policies, policy, index))
                assert list(found.of(policy, index)) == expected, (policies, policy.name, index)
                asked += 1
                covered += bool(expected)
    assert asked / 20 < covered < asked / 2, "policies of which too few or too many rules are covered test little"


def _many(peer: Callable[[int], dict[str, Any]], port: Callable[[int], dict[str, Any]]) -> NetworkPolicy:
    rules = [{"from": [peer(number)], "ports": [port(number)]} for number in range(_RULES)]
    return network_policy("many", {"podSelector": {}, "ingress": rules})


@pytest.mark.parametrize(
    "policy",
    [
        _many(
            lambda number: {"podSelector": {"matchLabels": {"tier": "a", "app": f"a{number}"}}}, lambda _: {"port": 1}
        ),
        _many(
            lambda number: {
                "podSelector": {"matchLabels": {"app": "web"}},
                "namespaceSelector": {"matchLabels": {"team": f"t{number}"}},
            },
            lambda _: {"port": 80},
        ),
        _many(lambda number: {"ipBlock": {"cidr": f"10.{number >> 8}.{number & 255}.0/24"}}, lambda _: {}),
        _many(lambda number: {"ipBlock": {"cidr": f"fd00:{number:x}::/32"}}, lambda _: {"port": 80}),
        _many(lambda _: {"podSelector": {}}, lambda number: {"port": 1 + number}),
    ],
    ids=["pods", "namespaces", "IPv4", "IPv6", "ports"],
)
def test_each_of_many_rules_is_compared_with_few(policy: NetworkPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each other one, that is 250,000 comparisons."""
    compared = 0
    real = module._is_in

    def counted(*given: Any) -> bool:
        nonlocal compared
        compared += 1
        return real(*given)

    monkeypatch.setattr(module, "_is_in", counted)
    found = Covering([policy], Direction.INGRESS)
    assert not [
        ref for index in range(len(rules_in(policy, Direction.INGRESS) or ())) for ref in found.of(policy, index)
    ]
    assert compared < 5 * _RULES
