"""What the types of a routes file cannot say: values that cannot be, and fields that do not go together."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from enrich.model import Selector
from enrich.parse.cursor import Field, InvalidObjectError
from enrich.parse.network_policy import read_selector
from enrich.render.template import PROTOCOLS
from streams.config.yaml_file import Problem, Steps
from streams.routes.model import End, File, Kafka, Labels, Match, Route, Routes, listed

SIDES: Final = ("src", "dest", "subject", "peer", "either")
NAMESPACE: Final = "{namespace}"
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]+")
_LONGEST: Final = 249
"""Characters of a topic's name (Kafka's Topic.java); a namespace has up to 63 of them."""


def check(routes: Routes, reserved: frozenset[str]) -> list[Problem]:
    """All that is wrong. ``reserved``: topics that no route may write."""
    return list(_check(routes, reserved))


def _check(routes: Routes, reserved: frozenset[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    files: dict[str, str] = {}
    topics: dict[str, Kafka] = {}
    for number, route in enumerate(routes.routes):
        at: Steps = ("routes", number)
        if route.name in seen:
            yield Problem((*at, "name"), f"another route is called {route.name}")
        seen.add(route.name)
        yield from check_matches((*at, "match"), route.match)
        yield from check_matches((*at, "except"), route.excluded)
        yield from _check_outputs((*at, "outputs"), route, reserved, files, topics)


def check_matches(at: Steps, given: Match | list[Match]) -> Iterator[Problem]:
    """Of a ``match`` or an ``except``, which alert rules have too."""
    for index, match in enumerate(listed(given)):
        below = (*at, index) if isinstance(given, list) else at
        yield from _check_ports((*below, "port"), match)
        known = {*PROTOCOLS.values(), *(str(number) for number in range(256))}
        for where, word in _each((*below, "protocol"), match.protocol):
            if word not in known:
                yield Problem(where, f"{word!r} is no protocol: tcp, udp, sctp, icmp, icmpv6, or a number to 255")
        for side in SIDES:
            end: End | None = getattr(match, side)
            if end is not None:
                yield from _check_end((*below, side), end)


def _each(at: Steps, given: Any) -> Iterator[tuple[Steps, Any]]:
    for index, word in enumerate(listed(given)):
        yield (*at, index) if isinstance(given, list) else at, word


def _check_ports(at: Steps, match: Match) -> Iterator[Problem]:
    for where, port in _each(at, match.port):
        first, last = port_range(port)
        if last > 65535:
            yield Problem(where, f"{port}: a port is at most 65535")
        elif first > last:
            yield Problem(where, f"{port}: the first port is larger than the last")


def _check_end(at: Steps, end: End) -> Iterator[Problem]:
    for where, cidr in _each((*at, "cidr"), end.cidr):
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            yield Problem(where, f"{cidr!r} is no CIDR, such as 10.0.0.0/8 or fd00::/64")
    if end.labels is not None:
        try:
            selector(end.labels)
        except InvalidObjectError as error:
            steps = tuple(int(s) if s.isdigit() else s for s in re.findall(r"[^.\[\]]+", error.field))
            yield Problem((*at, "labels", *steps), error.message)


def _check_outputs(
    at: Steps, route: Route, reserved: frozenset[str], files: dict[str, str], topics: dict[str, Kafka]
) -> Iterator[Problem]:
    for index, output in enumerate(route.outputs):
        kinds = [name for name in output.__struct_fields__ if getattr(output, name) is not None]
        if len(kinds) != 1:
            yield Problem((*at, index), f"must be exactly one of {', '.join(output.__struct_fields__)}")
            continue
        if output.kafka is not None:
            yield from _check_topic((*at, index, "kafka"), output.kafka, reserved)
            if topics.setdefault(output.kafka.topic, output.kafka) != output.kafka:
                yield Problem((*at, index, "kafka"), "another output writes this topic, and says otherwise of it")
        if output.file is not None:
            yield from _check_file((*at, index, "file"), output.file, route.name, files)


def _check_topic(at: Steps, kafka: Kafka, reserved: frozenset[str]) -> Iterator[Problem]:
    plain = kafka.topic.replace(NAMESPACE, "")
    named = plain != kafka.topic
    if not _TOPIC.fullmatch(plain or "x") or not kafka.topic or kafka.topic in (".", ".."):
        yield Problem((*at, "topic"), "may have letters, digits, . _ - and {namespace}")
    elif len(plain) + (63 if named else 0) > _LONGEST:
        yield Problem((*at, "topic"), f"is too long: a topic's name has at most {_LONGEST} characters")
    elif kafka.topic in reserved:
        yield Problem((*at, "topic"), f"{kafka.topic} is one of kubeweir's own")
    if named and not listed(kafka.namespaces):
        yield Problem((*at, "namespaces"), "is required with {namespace}: the namespaces that may have a topic")
    if not named and kafka.namespaces is not None:
        yield Problem((*at, "namespaces"), "says nothing without {namespace} in the topic; use match")
    if kafka.format == "record" and kafka.key == "node":
        yield Problem((*at, "key"), "a record of its own has the key pod, namespace or none")


def _check_file(at: Steps, file: File, route: str, files: dict[str, str]) -> Iterator[Problem]:
    if (file.path is None) == (file.preset is None):
        yield Problem(at, "must have exactly one of path, preset")
        return
    path = file.path or str(file.preset)
    if path in files:
        yield Problem((*at, "path" if file.path else "preset"), f"route {files[path]} writes this file")
    files[path] = route


def port_range(port: int | str) -> tuple[int, int]:
    """First and last port."""
    if isinstance(port, int):
        return port, port
    first, _, last = port.partition("-")
    return int(first), int(last)


def selector(labels: Labels) -> Selector:
    """As the engine evaluates it. Raises InvalidObjectError."""
    return read_selector(Field("", msgspec.to_builtins(labels)))
