"""Checks of ``match`` and ``except`` that their types cannot make: ports, protocols, networks and label selectors."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from enrich.label_selector import Selector
from enrich.parse.cursor import Field, InvalidObjectError
from enrich.parse.network_policy import read_selector
from enrich.render.template import PROTOCOLS
from streams.config.yaml_file import Problem, Steps
from streams.matching.model import EndMatch, Labels, Match, as_list

ROLES: Final = ("src", "dest", "subject", "peer", "either")
"""The fields of a match that are conditions on an end."""
_MAX_PORT: Final = 65535


def check_matches(at: Steps, given: Match | list[Match]) -> Iterator[Problem]:
    """Yield every mistake in a ``match`` or an ``except``, which stands in the file at ``at``."""
    for index, match in enumerate(as_list(given)):
        below = (*at, index) if isinstance(given, list) else at
        yield from _check_ports((*below, "port"), match)
        known = {*PROTOCOLS.values(), *(str(number) for number in range(256))}
        for where, word in _each((*below, "protocol"), match.protocol):
            if word not in known:
                yield Problem(
                    where, f"{word!r} is not a protocol: use tcp, udp, sctp, icmp, icmpv6, or a number up to 255"
                )
        for role in ROLES:
            end: EndMatch | None = getattr(match, role)
            if end is not None:
                yield from _check_end((*below, role), end)


def _each(at: Steps, given: Any) -> Iterator[tuple[Steps, Any]]:
    for index, word in enumerate(as_list(given)):
        yield (*at, index) if isinstance(given, list) else at, word


def _check_ports(at: Steps, match: Match) -> Iterator[Problem]:
    for where, port in _each(at, match.port):
        first, last = port_range(port)
        if last > _MAX_PORT:
            yield Problem(where, f"{port}: a port is at most {_MAX_PORT}")
        elif first > last:
            yield Problem(where, f"{port}: the first port is larger than the last")


def _check_end(at: Steps, end: EndMatch) -> Iterator[Problem]:
    for where, cidr in _each((*at, "cidr"), end.cidr):
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            yield Problem(where, f"{cidr!r} is not a network; write one as 10.0.0.0/8 or fd00::/64")
    if end.labels is not None:
        try:
            selector(end.labels)
        except InvalidObjectError as error:
            steps = tuple(int(s) if s.isdigit() else s for s in re.findall(r"[^.\[\]]+", error.field))
            yield Problem((*at, "labels", *steps), error.message)


def port_range(port: int | str) -> tuple[int, int]:
    """Return the first and the last port of a port or a range."""
    if isinstance(port, int):
        return port, port
    first, _, last = port.partition("-")
    return int(first), int(last)


def selector(labels: Labels) -> Selector:
    """Return a label selector as the policy engine evaluates it. Raises InvalidObjectError."""
    return read_selector(Field("", msgspec.to_builtins(labels)))
