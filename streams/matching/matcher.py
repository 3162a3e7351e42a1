"""Whether a route takes a record: pure functions of the record as JSON, and the words for why not.

This is the meaning of ``match`` and ``except``. What runs once a batch (:mod:`streams.routes.classifier`) asks it about
one record of each kind.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any, Final

from enrich.explain.mismatch import selector_text
from enrich.model import Selector
from enrich.policy import selectors
from streams.cli.filters import Flow
from streams.matching import sampling
from streams.routes.check import SIDES, port_range, selector
from streams.routes.model import End, Match, Route, Words, listed

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Side = Mapping[str, Any]
_ENDS: Final = {"src": ("src",), "dest": ("dest",), "either": ("src", "dest")}


@dataclass(frozen=True, slots=True)
class Condition:
    """One field of a match, and what the record has in its place."""

    field: str
    wanted: str
    found: Callable[[Any], Sequence[str]]
    """What the record, or the end, has: any one may fit."""
    fits: Callable[[str], bool]

    def holds(self, thing: Any) -> bool:
        """Whether one of what was found fits."""
        return any(map(self.fits, self.found(thing)))

    def miss(self, thing: Any) -> str:
        """In words, of a condition that does not hold."""
        return f"{self.field} wants {self.wanted}, and has {', '.join(self.found(thing)) or 'none'}"


@dataclass(frozen=True, slots=True)
class EndTest:
    """A match's view of one end: all conditions, the labels and the networks must fit the same end."""

    side: str
    conditions: tuple[Condition, ...]
    labels: Selector
    networks: tuple[Network, ...]

    def named(self, end: Side) -> bool:
        """All but the networks."""
        return all(one.holds(end) for one in self.conditions) and (
            not self.labels.requirements or ("labels" in end and selectors.matches(self.labels, end["labels"]))
        )

    def at(self, ip: str | None) -> bool:
        """The networks."""
        if not self.networks:
            return True
        address = ipaddress.ip_address(ip) if ip else None
        return address is not None and any(address in network for network in self.networks)

    def holds(self, flow: Flow) -> bool:
        """Whether one of the ends that are meant fits."""
        connection = flow["connection"]
        return any(
            self.named(flow[which]) and self.at(connection.get(f"{which}_ip"))
            for which in sides(self.side, connection["direction"])
        )

    def miss(self, flow: Flow) -> str:
        """In words, of one that does not hold."""
        connection = flow["connection"]
        told: list[str] = [
            self._miss(flow[which], connection.get(f"{which}_ip"))
            for which in sides(self.side, connection["direction"])
        ]
        return f"{self.side}.{told[0]}" if len(told) == 1 else f"{self.side}: src.{told[0]}; dest.{told[1]}"

    def _miss(self, end: Side, ip: str | None) -> str:
        for one in self.conditions:
            if not one.holds(end):
                return one.miss(end)
        if not self.named(end):
            found = ", ".join(f"{key}={value}" for key, value in end.get("labels", {}).items())
            return f"labels wants {selector_text(self.labels)}, and has {found or 'none'}"
        return f"cidr wants {', '.join(map(str, self.networks))}, and has {ip or 'none'}"


@dataclass(frozen=True, slots=True)
class Block:
    """One ``match``."""

    about: tuple[Condition, ...]
    """Of what rows of one template share."""
    ports: tuple[tuple[int, int], ...]
    service: Condition | None
    ends: tuple[EndTest, ...]

    def holds(self, flow: Flow) -> bool:
        """Whether all that is given fits."""
        return (
            all(one.holds(flow) for one in self.about)
            and (not self.ports or self._port_fits(flow))
            and (self.service is None or self.service.holds(flow))
            and all(end.holds(flow) for end in self.ends)
        )

    def possible(self, about: Flow, local: Side) -> bool:
        """Whether it may hold for a record of which no more is known than what rows of one template share, and the
        end whose policy was judged."""
        direction = about["connection"]["direction"]
        own = sides("subject", direction)
        return all(one.holds(about) for one in self.about) and all(
            end.named(local) for end in self.ends if sides(end.side, direction) == own
        )

    def miss(self, flow: Flow) -> str:
        """The first that does not, in words."""
        conditions = [*self.about, *([self.service] if self.service else [])]
        for one in conditions:
            if not one.holds(flow):
                return one.miss(flow)
        if self.ports and not self._port_fits(flow):
            wanted = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ports)
            return f"port wants {wanted}, and has {', '.join(map(str, ports_of(flow))) or 'none'}"
        return next(end.miss(flow) for end in self.ends if not end.holds(flow))

    def _port_fits(self, flow: Flow) -> bool:
        return any(first <= port <= last for port in ports_of(flow) for first, last in self.ports)


class Matcher:
    """A route's match and except, taken apart once."""

    def __init__(self, route: Route) -> None:
        self.name, self.sample = route.name, route.sample
        self.wanted = tuple(_block(match) for match in listed(route.match))
        self.excluded = tuple(_block(match) for match in listed(route.excluded))

    def fits(self, flow: Flow) -> bool:
        """Whether the route takes a record, before sampling."""
        return any(block.holds(flow) for block in self.wanted) and not any(block.holds(flow) for block in self.excluded)

    def takes(self, flow: Flow) -> bool:
        """Whether the route takes a record."""
        return self.fits(flow) and (
            self.sample >= 1 or flow["disposition"] != "allow" or sampling.keeps(flow, self.sample)
        )

    def why_not(self, flow: Flow) -> str | None:
        """In words why it does not; None where it does."""
        if not any(block.holds(flow) for block in self.wanted):
            return "; ".join(f"match.{block.miss(flow)}" for block in self.wanted) or "match is an empty list"
        for index, block in enumerate(self.excluded):
            if block.holds(flow):
                return f"except[{index}] fits"
        return None if self.takes(flow) else f"not in the sample of {self.sample:g}"


def sides(side: str, direction: str) -> tuple[str, ...]:
    """Which of src and dest a side means."""
    if side in _ENDS:
        return _ENDS[side]
    return ("dest",) if (side == "subject") == (direction == "ingress") else ("src",)


def ports_of(flow: Flow) -> list[int]:
    """Destination port and the one that was dialled."""
    found = (flow["connection"].get("dest_port"), flow.get("dialled", {}).get("port"))
    return [port for port in found if port is not None]


def _block(match: Match) -> Block:
    ports: list[int | str] = listed(match.port)
    about = (
        _exact("verdict", match.verdict, lambda flow: (flow["disposition"],)),
        _exact("direction", match.direction, lambda flow: (flow["connection"]["direction"],)),
        _exact("reason", match.reason, lambda flow: (flow["reason"],)),
        _exact("protocol", match.protocol, lambda flow: _some(flow["connection"].get("protocol"))),
        _pattern("policy", match.policy, policy_names),
        _pattern("node", match.node, lambda flow: (flow["node_name"],)),
    )
    return Block(
        about=tuple(one for one in about if one is not None),
        ports=tuple(port_range(port) for port in ports),
        service=_pattern("service", match.service, lambda flow: _named(flow.get("dialled", {}).get("service"), "name")),
        ends=tuple(_end(side, getattr(match, side)) for side in SIDES if getattr(match, side) is not None),
    )


def _end(side: str, end: End) -> EndTest:
    conditions = (
        _pattern("namespace", end.namespace, lambda one: _some(one.get("namespace"))),
        _pattern("pod", end.pod, lambda one: _named(one, "pod_name")),
        _pattern("workload", end.workload, lambda one: _named(one, "workload_name", "workload_kind")),
        _pattern("node", end.node, lambda one: _some(one.get("node_name"))),
    )
    return EndTest(
        side=side,
        conditions=tuple(one for one in conditions if one is not None),
        labels=selector(end.labels) if end.labels is not None else Selector(),
        networks=tuple(ipaddress.ip_network(cidr, strict=False) for cidr in listed(end.cidr)),
    )


def _exact(field: str, wanted: Any, found: Callable[[Any], Sequence[str]]) -> Condition | None:
    words = listed(wanted)
    return Condition(field, ", ".join(words), found, frozenset(words).__contains__) if wanted is not None else None


def _pattern(field: str, wanted: Words | None, found: Callable[[Any], Sequence[str]]) -> Condition | None:
    if wanted is None:
        return None
    fits = pattern_test(listed(wanted))
    return Condition(field, ", ".join(listed(wanted)), found, fits)


def pattern_test(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a text is one of these, in which ``*`` stands for any text."""
    # Only * is ours: [ and ? have no special meaning, and no name has them.
    bodies = [translate(one.replace("[", "[[]").replace("?", "[?]")) for one in patterns]
    match = re.compile("|".join(bodies) or r"(?!)").match
    return lambda text: match(text) is not None


def policy_names(flow: Flow) -> list[str]:
    """Of the policies that decided or isolate, with and without namespace."""
    refs = (*flow["policies"], *flow["isolated_by"])
    return [name for ref in refs for name in _named(ref, "name")]


def _named(thing: Any, name: str, prefix: str = "namespace") -> tuple[str, ...]:
    """A name, and the same behind its prefix."""
    if not thing or not thing.get(name):
        return ()
    return (thing[name], f"{thing[prefix]}/{thing[name]}") if thing.get(prefix) else (thing[name],)


def _some(text: Any) -> tuple[str, ...]:
    return (text,) if text else ()
