"""What a run has done, as the account knows it: pods with their times, changes of policy with theirs, Services."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.custody.policies import Policy

CLUSTER, NODE, NAMESPACE = "c1", "n1", "shop"


@dataclass
class Host:
    """A pod, the outside world or the node. Times are nanoseconds of the wall clock."""

    name: str
    addresses: tuple[str, ...]
    app: str = ""
    """Empty for what is not a pod."""
    uid: str = ""
    place: str = ""
    """The name of its capture; empty for the node, where nothing is captured."""
    begun: int = 0
    """When its interface began to be made."""
    gone: int = 1 << 62
    """When its interface was gone."""
    adopting_until: int = 0
    """If its interface is older than the probe that attached it, the probe may take UDP for replies until then."""

    @property
    def is_pod(self) -> bool:
        return bool(self.app)


class Change(NamedTuple):
    """One change of policy: asked at a time, and in force by another, as the probe has said."""

    asked: int
    in_force: int
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


@dataclass
class Script:
    """Everything that the account knows beside the captures."""

    hosts: list[Host] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    """In the order of their times. The first one is in force from the beginning."""
    services: list[Service] = field(default_factory=list)
    takeovers: list[tuple[int, int]] = field(default_factory=list)
    """When one generation of maps took over from another, from and until, as the probe has said."""
    moves: list[tuple[int, int]] = field(default_factory=list)
    """When, in a takeover, interfaces were moved from one table of connections to another."""

    def states(self, first: int, last: int) -> list[frozenset[Policy]]:
        """Return the sets of policies that may have been in force at some moment of a time."""
        at = max(bisect.bisect_left(self.changes, first, key=lambda change: change.in_force) - 1, 0)
        found = [self.changes[at].policies]
        for change in itertools.islice(self.changes, at + 1, None):
            if change.asked > last:
                break
            found.append(change.policies)
        return list(dict.fromkeys(found))

    def holder(self, address: str, at: int) -> Host | None:
        """Return who had an address at a moment."""
        return next((host for host in self.hosts if address in host.addresses and host.begun <= at <= host.gone), None)
