"""The whole answer to "may A talk to B on this port, and why": both ends, each address family that they share.

``enrich/schemas/explanation.schema.json`` describes its JSON.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from enrich.explain.one_end import Connection, EndDecision, end_decisions
from enrich.explain.query import End, EndQuery, UnanswerableError, destination_port, find
from enrich.model import Name, Service
from enrich.policy.matching import Endpoint, PolicyView

ALLOW: Final = "allow"
DENY: Final = "deny"
AUDIT: Final = "audit"
MIXED: Final = "mixed"
"""One family is allowed and the other denied."""
UNKNOWN: Final = "unknown"


class EndReport(msgspec.Struct, frozen=True):
    """An end, as it was understood."""

    kind: str
    """pod, hostNetwork, node, service, address; unknown if there is none such."""
    name: str
    ips: tuple[str, ...] = ()


class AddressPairAnswer(msgspec.Struct, frozen=True):
    """The answer for a pair of addresses."""

    source_ip: str
    destination_ip: str
    verdict: str
    sides: tuple[EndDecision, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for all of them."""

    schema: int = 1
    source: EndReport
    destination: EndReport
    protocol: str
    port: int | None = None
    verdict: str
    """allow, deny, audit (passes, and would be denied), mixed (differs by address family), unknown."""
    text: str
    """The verdict in a sentence; of unknown, why, and what to do."""
    answers: tuple[AddressPairAnswer, ...] = ()
    notes: tuple[str, ...] = ()


def explain_connection(
    view: PolicyView,
    services: Mapping[Name, Service],
    source: EndQuery,
    destination: EndQuery,
    notes: Iterable[str] = (),
) -> Explanation:
    """Never raises for what the cluster does not know: the verdict is unknown then."""
    protocol = destination.protocol.name if destination.protocol else "ICMP"
    try:
        ends = find(view, services, source), find(view, services, destination)
        port, about_port = destination_port(ends[1], destination)
        answers = _answers(view, *ends, destination, port)
    except UnanswerableError as error:
        return Explanation(
            source=_typed(source), destination=_typed(destination), protocol=protocol,
            port=int(destination.port) if destination.port.isdigit() else None,
            verdict=UNKNOWN, text=str(error), notes=tuple(notes),
        )  # fmt: skip
    verdict = overall(answer.verdict for answer in answers)
    return Explanation(
        source=EndReport(ends[0].kind, ends[0].name, ends[0].ips),
        destination=EndReport(ends[1].kind, ends[1].name, ends[1].ips),
        protocol=protocol, port=port or None, verdict=verdict, text=_sentence(verdict, answers), answers=answers,
        notes=(*notes, *ends[0].notes, *ends[1].notes, *about_port, *_about_nodes(view, ends)),
    )  # fmt: skip


def _typed(typed: EndQuery) -> EndReport:
    return EndReport(UNKNOWN, typed.text)


def _answers(
    view: PolicyView, source: End, destination: End, typed: EndQuery, port: int
) -> tuple[AddressPairAnswer, ...]:
    for end in (source, destination):
        if end.kind == "service":
            raise UnanswerableError(_about_service(end, is_source=end is source))
    if source.pod is None and destination.pod is None and not {source.kind, destination.kind} & {"hostNetwork"}:
        raise UnanswerableError(f"neither {source.name} nor {destination.name} is a pod: no policy judges this")
    pairs = [(a, b) for a in source.ips for b in destination.ips if _version(a) == _version(b)]
    if not pairs:
        raise UnanswerableError(
            f"no address family in common: {source.name} has {', '.join(source.ips)}, "
            f"{destination.name} has {', '.join(destination.ips)}"
        )
    answers = []
    for source_ip, destination_ip in pairs:
        ends = Endpoint(source_ip, source.pod), Endpoint(destination_ip, destination.pod)
        found = end_decisions(view, Connection(*ends, typed.protocol, port))
        answers.append(AddressPairAnswer(source_ip, destination_ip, _verdict(found), found))
    return tuple(answers)


def _version(ip: str) -> int:
    return ipaddress.ip_address(ip).version


def _verdict(found: tuple[EndDecision, ...]) -> str:
    """Of both ends: each has to allow."""
    verdicts = {side.verdict for side in found}
    return DENY if DENY in verdicts else AUDIT if AUDIT in verdicts else ALLOW


def overall(verdicts: Iterable[str]) -> str:
    """Of all pairs of addresses. What passes under audit passes."""
    found = set(verdicts)
    if DENY in found:
        return DENY if found == {DENY} else MIXED
    return AUDIT if AUDIT in found else ALLOW


def _sentence(verdict: str, answers: tuple[AddressPairAnswer, ...]) -> str:
    if verdict == MIXED:
        each = (f"{a.destination_ip} {'denied' if a.verdict == DENY else 'allowed'}" for a in answers)
        return f"it depends on the address: {', '.join(each)}"
    at = {side.direction for answer in answers for side in answer.sides if side.verdict == verdict}
    where = " and at ".join(f"the {_WHERE[direction]}" for direction in ("egress", "ingress") if direction in at)
    if verdict == DENY:
        return f"denied at {where}"
    if verdict == AUDIT:
        return f"passes, audited: would be denied at {where}"
    return "allowed" if at else "allowed: no policy applies to either end"


_WHERE: Final = {"egress": "source (egress)", "ingress": "destination (ingress)"}


def _about_service(service: End, *, is_source: bool) -> str:
    address = service.ips[0]
    if is_source:
        return f"{address} is the address of Service {service.name}: connections come from pods, never from it"
    return (
        f"{address} is the address of Service {service.name}: it is judged after DNAT, on the backend's own address "
        "and port. Ask for a backend: NAMESPACE/POD:PORT, with its targetPort"
    )


def _about_nodes(view: PolicyView, ends: tuple[End, End]) -> tuple[str, ...]:
    """A pod's node that the source does not know may be the other end without anybody seeing it."""
    return tuple(
        f"node {end.pod.node or '(none)'} of {end.name} is not known here, so traffic with it is judged as an outside's"
        for end, other in (ends, ends[::-1])
        if end.pod is not None and other.pod is None and Name("", end.pod.node) not in view.nodes
    )
