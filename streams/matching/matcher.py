"""What ``match`` and ``except`` mean: pure functions of a flow record that say whether it fits, and in words why not.

A record is taken if it fits ``match``, does not fit ``except``, and is in the sample. In detail:

1. ``match`` is one set of conditions, or a list of sets of which any one may fit. An empty set fits every record, an
   empty list fits none. ``except`` is read in the same way; without it nothing is left out.
2. All conditions of a set must fit (and). Of the values of one condition any one may fit (or): ``{verdict: deny,
   port: [80, 443]}`` is a denial on port 80 or on port 443.
3. ``src``, ``dest``, ``subject`` and ``peer`` each mean one end, and all that is asked of it must fit that end.
   ``either`` means that all must fit one of the two: ``{either: {namespace: shop, pod: api-*}}`` does not take a record
   whose one end is in ``shop`` and whose other end is a pod ``api-0`` elsewhere.
4. A condition on something that the record does not have does not fit. So ``labels`` does not fit an end whose labels
   are not known, though Kubernetes would let ``NotIn`` fit a pod without the label.
5. Names match without and with their prefix: ``policy: deny-*`` and ``policy: shop/deny-*`` both find shop/deny-all.
6. The sample applies to allowed connections only; see :mod:`streams.matching.sampling`.

This module decides for one record. :mod:`streams.routes.classifier` asks it about one record of each class, so that the
meaning is written down once.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from enrich.explain.mismatch import selector_text
from enrich.label_selector import Selector
from enrich.policy import selectors
from enrich.wire.flow import Decision, Dialled, End, Flow, sides
from streams.matching import sampling
from streams.matching.check import ROLES, port_range, selector
from streams.matching.model import EndMatch, Match, Patterns, as_list

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Condition:
    """One field of a match."""

    field: str
    expected: str
    """The values that fit, in words."""
    found: Callable[[Any], Sequence[str]]
    """Returns what the record, or the end, has in this field. Any one value may fit."""
    fits: Callable[[str], bool]

    def holds(self, thing: Any) -> bool:
        """Return whether a record, or an end, fits."""
        return any(map(self.fits, self.found(thing)))

    def mismatch(self, thing: Any) -> str:
        """Say why a record, or an end, does not fit."""
        return _mismatch(self.field, self.expected, self.found(thing))


@dataclass(frozen=True, slots=True)
class EndConditions:
    """The conditions of a match on one end."""

    role: str
    """src, dest, subject, peer or either."""
    conditions: tuple[Condition, ...]
    labels: Selector
    networks: tuple[Network, ...]

    def fits_end(self, end: End) -> bool:
        """Return whether an end fits, regardless of its address."""
        return all(condition.holds(end) for condition in self.conditions) and (
            not self.labels.requirements or (end.labels is not None and selectors.matches(self.labels, end.labels))
        )

    def fits_address(self, ip: str) -> bool:
        """Return whether an address is in one of the networks. An address that is not known is in none."""
        if not self.networks:
            return True
        address = ipaddress.ip_address(ip) if ip else None
        return address is not None and any(address in network for network in self.networks)

    def holds(self, flow: Flow) -> bool:
        """Return whether the end that the role means fits; for ``either``, whether one of the two does."""
        return any(
            self.fits_end(flow.end(side)) and self.fits_address(flow.ip(side))
            for side in sides(self.role, flow.direction)
        )

    def mismatch(self, flow: Flow) -> str:
        """Say why a record does not fit."""
        reasons = {side: self._mismatch(flow.end(side), flow.ip(side)) for side in sides(self.role, flow.direction)}
        if len(reasons) == 1:
            return f"{self.role}.{next(iter(reasons.values()))}"
        return f"{self.role}: {'; '.join(f'{side}.{reason}' for side, reason in reasons.items())}"

    def _mismatch(self, end: End, ip: str) -> str:
        for condition in self.conditions:
            if not condition.holds(end):
                return condition.mismatch(end)
        if not self.fits_end(end):
            found = [f"{key}={value}" for key, value in (end.labels or {}).items()]
            return _mismatch("labels", selector_text(self.labels), found)
        return _mismatch("cidr", ", ".join(map(str, self.networks)), [ip] if ip else [])


@dataclass(frozen=True, slots=True)
class ConditionSet:
    """One set of conditions: a ``match`` or an ``except``, or one of a list."""

    decision: tuple[Condition, ...]
    """Conditions that a :class:`enrich.wire.flow.Decision` can answer."""
    ports: tuple[tuple[int, int], ...]
    service: Condition | None
    """A condition on the :class:`enrich.wire.flow.Dialled` of a record."""
    ends: tuple[EndConditions, ...]

    def holds(self, flow: Flow) -> bool:
        """Return whether all conditions fit."""
        return (
            all(condition.holds(flow) for condition in self.decision)
            and (not self.ports or self._fits_port(flow))
            and (self.service is None or (flow.dialled is not None and self.service.holds(flow.dialled)))
            and all(end.holds(flow) for end in self.ends)
        )

    def may_hold(self, decision: Decision, subject: End) -> bool:
        """Return whether any record with this decision and this subject could fit."""
        own = sides("subject", decision.direction)
        return all(condition.holds(decision) for condition in self.decision) and all(
            end.fits_end(subject) for end in self.ends if sides(end.role, decision.direction) == own
        )

    def mismatch(self, flow: Flow) -> str:
        """Say which condition a record does not fit first, and why."""
        for condition in self.decision:
            if not condition.holds(flow):
                return condition.mismatch(flow)
        if self.service and flow.dialled is None:
            return _mismatch(self.service.field, self.service.expected, ())
        if self.service and not self.service.holds(flow.dialled):
            return self.service.mismatch(flow.dialled)
        if self.ports and not self._fits_port(flow):
            expected = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ports)
            return _mismatch("port", expected, [str(port) for port in flow.ports])
        return next(end.mismatch(flow) for end in self.ends if not end.holds(flow))

    def _fits_port(self, flow: Flow) -> bool:
        return any(first <= port <= last for port in flow.ports for first, last in self.ports)


class Matcher:
    """``match``, ``except`` and ``sample`` of one route or rule, ready to be asked."""

    def __init__(
        self, name: str, match: Match | list[Match], excluded: Match | list[Match], sample: float = 1.0
    ) -> None:
        """Take conditions that :func:`streams.matching.check.check_matches` found no mistake in. ``sample`` is the
        share of allowed connections that is taken."""
        self.name, self.sample = name, sample
        self.included = tuple(_condition_set(one) for one in as_list(match))
        self.excluded = tuple(_condition_set(one) for one in as_list(excluded))

    def fits(self, flow: Flow) -> bool:
        """Return whether a record fits ``match`` and not ``except``, before sampling."""
        return any(one.holds(flow) for one in self.included) and not any(one.holds(flow) for one in self.excluded)

    def takes(self, flow: Flow) -> bool:
        """Return whether a record is taken."""
        return self.fits(flow) and (
            self.sample >= 1 or flow.disposition != "allow" or sampling.keeps(flow.connection, self.sample)
        )

    def why_not(self, flow: Flow) -> str | None:
        """Say why a record is not taken; None if it is."""
        if not any(one.holds(flow) for one in self.included):
            return "; ".join(f"match.{one.mismatch(flow)}" for one in self.included) or (
                "match is an empty list, which fits no record"
            )
        for index, one in enumerate(self.excluded):
            if one.holds(flow):
                return f"except[{index}] fits"
        return None if self.takes(flow) else f"the connection is not in the sample of {self.sample:g}"


def _condition_set(match: Match) -> ConditionSet:
    ports: list[int | str] = as_list(match.port)
    decision = (
        _exact("verdict", match.verdict, lambda flow: (flow.disposition,)),
        _exact("direction", match.direction, lambda flow: (flow.direction,)),
        _exact("reason", match.reason, lambda flow: (flow.reason,)),
        _exact("protocol", match.protocol, lambda flow: _known(flow.protocol)),
        _pattern("policy", match.policy, policy_names),
        _pattern("node", match.node, lambda flow: (flow.node_name,)),
    )
    return ConditionSet(
        decision=tuple(condition for condition in decision if condition is not None),
        ports=tuple(port_range(port) for port in ports),
        service=_pattern("service", match.service, _service_names),
        ends=tuple(_end(role, end) for role in ROLES if (end := getattr(match, role)) is not None),
    )


def _end(role: str, match: EndMatch) -> EndConditions:
    conditions = (
        _pattern("namespace", match.namespace, lambda end: _known(end.namespace)),
        _pattern("pod", match.pod, lambda end: with_prefix(end.namespace, end.pod_name)),
        _pattern("workload", match.workload, lambda end: with_prefix(end.workload_kind, end.workload_name)),
        _pattern("node", match.node, lambda end: _known(end.node_name)),
    )
    return EndConditions(
        role=role,
        conditions=tuple(condition for condition in conditions if condition is not None),
        labels=selector(match.labels) if match.labels is not None else Selector(),
        networks=tuple(ipaddress.ip_network(cidr, strict=False) for cidr in as_list(match.cidr)),
    )


def _exact(field: str, expected: Any, found: Callable[[Any], Sequence[str]]) -> Condition | None:
    if expected is None:
        return None
    values: list[str] = as_list(expected)
    return Condition(field, ", ".join(values), found, frozenset(values).__contains__)


def _pattern(field: str, expected: Patterns | None, found: Callable[[Any], Sequence[str]]) -> Condition | None:
    if expected is None:
        return None
    return Condition(field, ", ".join(as_list(expected)), found, pattern_test(as_list(expected)))


def pattern_test(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that says whether a text fits one of the patterns, in which ``*`` stands for any text."""
    # fnmatch gives [ and ? a meaning too. Names in Kubernetes have neither, so both stand for themselves here.
    bodies = [translate(one.replace("[", "[[]").replace("?", "[?]")) for one in patterns]
    match = re.compile("|".join(bodies) or r"(?!)").match
    return lambda text: match(text) is not None


def policy_names(flow: Flow | Decision) -> list[str]:
    """Return the names of the policies that decided or that isolate the pod, each without and with its namespace."""
    return [
        name for policy in (*flow.policies, *flow.isolated_by) for name in with_prefix(policy.namespace, policy.name)
    ]


def _service_names(dialled: Dialled) -> tuple[str, ...]:
    return with_prefix(dialled.service.namespace, dialled.service.name) if dialled.service else ()


def with_prefix(prefix: str, name: str) -> tuple[str, ...]:
    """Return a name alone and behind its prefix; nothing for no name."""
    if not name:
        return ()
    return (name, f"{prefix}/{name}") if prefix else (name,)


def _known(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _mismatch(field: str, expected: str, found: Sequence[str]) -> str:
    return f"{field} must be {expected}, but is {', '.join(found) or 'none'}"
