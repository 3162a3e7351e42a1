"""What a run has done, as the account knows it: pods with their times, changes of policy with theirs, Services."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.custody.policies import Policy

CLUSTER, NAMESPACE = "c1", "shop"
NODES: Final = ("n1", "n2")


@dataclass
class Host:
    """A pod, the outside world or a node. Times are nanoseconds of the wall clock."""

    name: str
    addresses: tuple[str, ...]
    app: str = ""
    """Empty for what is not a pod."""
    uid: str = ""
    place: str = ""
    """The name of its capture; empty for a node, where nothing is captured."""
    node: str = ""
    """The pod's node, or the node that it is; empty for the outside world."""
    begun: int = 0
    """When its interface began to be made."""
    gone: int = 1 << 62
    """When its interface was gone."""
    adopting_until: int = 0
    """If its interface is older than the probe that attached it, the probe may take UDP for replies until then."""

    @property
    def is_pod(self) -> bool:
        return bool(self.app)

    @property
    def is_node(self) -> bool:
        return bool(self.node) and not self.is_pod


class Change(NamedTuple):
    """One change of policy: asked at a time, and in force on each node by another, as its probe has said."""

    asked: int
    in_force: Mapping[str, int]
    policies: frozenset[Policy]
    """All that are in force after it."""


class Service(NamedTuple):
    """One port of a Service at one address, and its backend."""

    protocol: int
    address: str
    port: int
    backend: str
    backend_port: int
    name: str


class Span(NamedTuple):
    """A time in which something was so on a node."""

    node: str
    first: int
    last: int


@dataclass
class Script:
    """Everything that the account knows beside the captures."""

    hosts: list[Host] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    """In the order of their times. The first one is in force from the beginning."""
    services: list[Service] = field(default_factory=list)
    takeovers: list[Span] = field(default_factory=list)
    """When one generation of maps took over from another, as the probe has said."""
    moves: list[Span] = field(default_factory=list)
    """The takeovers in which interfaces were moved from one table of connections to another."""
    absences: list[Span] = field(default_factory=list)
    """When a node had no probe that worked."""

    def states(self, first: int, last: int, node: str) -> list[frozenset[Policy]]:
        """Return the sets of policies that may have been in force on a node at some moment of a time."""
        at = max(bisect.bisect_left(self.changes, first, key=lambda change: change.in_force[node]) - 1, 0)
        found = [self.changes[at].policies]
        for change in itertools.islice(self.changes, at + 1, None):
            if change.asked > last:
                break
            found.append(change.policies)
        return list(dict.fromkeys(found))

    def holder(self, address: str, at: int, node: str) -> Host | None:
        """Return who had an address at a moment. If several nodes have it, as their pods' gateway, ``node`` had it."""
        found = [host for host in self.hosts if address in host.addresses and host.begun <= at <= host.gone]
        return next((host for host in found if host.node == node), found[0] if found else None)
