"""What the policies of both ends of a flow say about it, by the oracle."""

from __future__ import annotations

from dataclasses import dataclass

from tests.custody.policies import Answer, Direction, Peer, Policy, judge
from tests.custody.script import Host
from tests.custody.wire import Flow


@dataclass(frozen=True)
class Ends:
    """What policy sees of a flow."""

    protocol: int
    port: int
    source: Peer
    destination: Peer
    kinds: tuple[str, str]
    """Of both ends: pod, node (the other end's own) or world."""
    is_self: bool

    @staticmethod
    def of(flow: Flow) -> Ends:
        key, hosts = flow.key, (flow.source, flow.destination)
        nodes = {host.node if host else "" for host in hosts}
        kinds = ["pod" if is_pod(host) else "node" if host and host.is_node and len(nodes) == 1 else "world"
                 for host in hosts]  # fmt: skip
        apps = [host.app if host else "" for host in hosts]
        return Ends(
            key.protocol, key.destination_port, Peer(apps[0], key.source), Peer(apps[1], key.destination),
            (kinds[0], kinds[1]), flow.source is not None and flow.source is flow.destination,
        )  # fmt: skip


def answers_of(policies: frozenset[Policy], ends: Ends) -> tuple[Answer, Answer]:
    """Return what the sender's end does with a flow, and what the receiver's does."""
    found = []
    directions: tuple[tuple[Direction, int, Peer], ...]
    directions = (("egress", 0, ends.destination), ("ingress", 1, ends.source))
    for direction, own, peer in directions:
        subject, other = ends.kinds[own], ends.kinds[1 - own]
        app = (ends.source if own == 0 else ends.destination).app
        if subject != "pod":
            found.append(Answer(passes=True, reason=""))
        elif ends.is_self:
            found.append(Answer(passes=True, reason="self"))
        elif other == "node":
            found.append(Answer(passes=True, reason="node"))
        else:
            found.append(judge(policies, app, direction, peer, ends.protocol, ends.port))
    return found[0], found[1]


def is_pod(host: Host | None) -> bool:
    """Return whether an end enforces policy."""
    return host is not None and host.is_pod
