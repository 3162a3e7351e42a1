"""The script's policies, and an oracle that knows what they mean. It shares no code with the product."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tests.custody.packets import SCTP, TCP, UDP

Direction = Literal["ingress", "egress"]
NAMES = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}


class Ports(NamedTuple):
    """A range of ports of a protocol."""

    protocol: int
    first: int
    last: int


@dataclass(frozen=True)
class Rule:
    """Peers are labels ``app`` and address blocks; without peers everybody, without ports every protocol."""

    apps: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    ports: tuple[Ports, ...] = ()


@dataclass(frozen=True)
class Policy:
    """A NetworkPolicy of one direction."""

    name: str
    app: str
    """The label of the pods that it selects."""
    direction: Direction
    rules: tuple[Rule, ...]

    def spec(self) -> dict[str, Any]:
        """Return the spec of the object in the API."""
        peers, word = ("from", "Ingress") if self.direction == "ingress" else ("to", "Egress")
        rules = []
        for rule in self.rules:
            made: dict[str, Any] = {}
            if rule.apps or rule.blocks:
                made[peers] = [{"podSelector": {"matchLabels": {"app": app}}} for app in rule.apps]
                made[peers] += [{"ipBlock": {"cidr": block}} for block in rule.blocks]
            if rule.ports:
                made["ports"] = [
                    {"protocol": NAMES[p.protocol], "port": p.first, "endPort": p.last} for p in rule.ports
                ]
            rules.append(made)
        return {"podSelector": {"matchLabels": {"app": self.app}}, "policyTypes": [word], self.direction: rules}


class Answer(NamedTuple):
    """What is done at one end, why, and by which policies."""

    passes: bool
    reason: str
    policies: frozenset[str] = frozenset()


class Peer(NamedTuple):
    """The other end of a connection."""

    app: str
    """Empty if it is not a pod."""
    address: str


def judge(policies: Collection[Policy], app: str, direction: Direction, peer: Peer, protocol: int, port: int) -> Answer:
    """Say what a pod's policies do with a connection; ``port`` is that of the end that is called."""
    own = [policy for policy in policies if policy.app == app and policy.direction == direction]
    if not own:
        return Answer(passes=True, reason="no_policy")
    allowing = frozenset(
        policy.name for policy in own if any(_matches(rule, peer, protocol, port) for rule in policy.rules)
    )
    if allowing:
        return Answer(passes=True, reason="policy", policies=allowing)
    return Answer(passes=False, reason="default_deny", policies=frozenset(policy.name for policy in own))


def _matches(rule: Rule, peer: Peer, protocol: int, port: int) -> bool:
    if rule.ports and not any(p.protocol == protocol and p.first <= port <= p.last for p in rule.ports):
        return False
    if not rule.apps and not rule.blocks:
        return True
    address = ipaddress.ip_address(peer.address)
    return (bool(peer.app) and peer.app in rule.apps) or any(
        address in ipaddress.ip_network(block) for block in rule.blocks
    )
