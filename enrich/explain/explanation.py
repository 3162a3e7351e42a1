"""Answers "may A connect to B on this port, and why": both ends, for each address family that they share.

``enrich/schemas/explanation.schema.json`` describes the JSON of an :class:`Explanation`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from enrich.explain.one_end import Connection, EndDecision, end_decisions
from enrich.explain.query import EndQuery, ResolvedEnd, UnanswerableError, destination_port, resolve_end
from enrich.model import Name, Service
from enrich.policy.matching import Endpoint, PolicyView

ALLOW: Final = "allow"
DENY: Final = "deny"
AUDIT: Final = "audit"
MIXED: Final = "mixed"
"""One address family is allowed and the other denied."""
UNKNOWN: Final = "unknown"


class EndReport(msgspec.Struct, frozen=True):
    """One end of the connection, as the query was understood."""

    kind: str
    """pod, hostNetwork, node, service or address; unknown if the query names nothing in the cluster."""
    name: str
    ips: tuple[str, ...] = ()


class AddressPairAnswer(msgspec.Struct, frozen=True):
    """The answer for one source address and one destination address of the same family."""

    source_ip: str
    destination_ip: str
    verdict: str
    sides: tuple[EndDecision, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, as `weir explain -o json` prints it."""

    schema: int = 1
    source: EndReport
    destination: EndReport
    protocol: str
    port: int | None = None
    verdict: str
    """allow, deny, audit (passes, but would be denied), mixed (differs by address family) or unknown."""
    text: str
    """The verdict in a sentence; if it is unknown, why, and what to do."""
    answers: tuple[AddressPairAnswer, ...] = ()
    notes: tuple[str, ...] = ()


def explain_connection(
    view: PolicyView,
    services: Mapping[Name, Service],
    source: EndQuery,
    destination: EndQuery,
    notes: Iterable[str] = (),
) -> Explanation:
    """Explain a connection. If the cluster cannot answer, the verdict is unknown; this never raises."""
    protocol = destination.protocol.name if destination.protocol else "ICMP"
    try:
        ends = resolve_end(view, services, source), resolve_end(view, services, destination)
        port, port_notes = destination_port(ends[1], destination)
        answers = _answers(view, *ends, destination, port)
    except UnanswerableError as error:
        return Explanation(
            source=_unresolved(source), destination=_unresolved(destination), protocol=protocol,
            port=int(destination.port) if destination.port.isdigit() else None,
            verdict=UNKNOWN, text=str(error), notes=tuple(notes),
        )  # fmt: skip
    verdict = overall(answer.verdict for answer in answers)
    return Explanation(
        source=EndReport(ends[0].kind, ends[0].name, ends[0].ips),
        destination=EndReport(ends[1].kind, ends[1].name, ends[1].ips),
        protocol=protocol, port=port or None, verdict=verdict, text=_sentence(verdict, answers), answers=answers,
        notes=(*notes, *ends[0].notes, *ends[1].notes, *port_notes, *_unknown_node_notes(view, ends)),
    )  # fmt: skip


def _unresolved(query: EndQuery) -> EndReport:
    return EndReport(UNKNOWN, query.text)


def _answers(
    view: PolicyView, source: ResolvedEnd, destination: ResolvedEnd, query: EndQuery, port: int
) -> tuple[AddressPairAnswer, ...]:
    """Return an answer for each pair of addresses of one family. Raises UnanswerableError."""
    for end in (source, destination):
        if end.kind == "service":
            raise UnanswerableError(_service_text(end, is_source=end is source))
    if source.pod is None and destination.pod is None and not {source.kind, destination.kind} & {"hostNetwork"}:
        raise UnanswerableError(
            f"neither {source.name} nor {destination.name} is a pod: policies apply to connections of pods only"
        )
    pairs = [(a, b) for a in source.ips for b in destination.ips if _version(a) == _version(b)]
    if not pairs:
        raise UnanswerableError(
            f"no address family in common: {source.name} has {', '.join(source.ips)}, "
            f"{destination.name} has {', '.join(destination.ips)}"
        )
    answers = []
    for source_ip, destination_ip in pairs:
        ends = Endpoint(source_ip, source.pod), Endpoint(destination_ip, destination.pod)
        decisions = end_decisions(view, Connection(*ends, query.protocol, port))
        answers.append(AddressPairAnswer(source_ip, destination_ip, _pair_verdict(decisions), decisions))
    return tuple(answers)


def _version(ip: str) -> int:
    return ipaddress.ip_address(ip).version


def _pair_verdict(decisions: tuple[EndDecision, ...]) -> str:
    """Combine the verdicts of both ends: each end must allow the connection."""
    verdicts = {decision.verdict for decision in decisions}
    return DENY if DENY in verdicts else AUDIT if AUDIT in verdicts else ALLOW


def overall(verdicts: Iterable[str]) -> str:
    """Combine the verdicts of all pairs of addresses. An audited connection passes, so it mixes with allowed ones."""
    found = set(verdicts)
    if DENY in found:
        return DENY if found == {DENY} else MIXED
    return AUDIT if AUDIT in found else ALLOW


def _sentence(verdict: str, answers: tuple[AddressPairAnswer, ...]) -> str:
    if verdict == MIXED:
        each = (f"{a.destination_ip} {'denied' if a.verdict == DENY else 'allowed'}" for a in answers)
        return f"it depends on the address: {', '.join(each)}"
    directions = {end.direction for answer in answers for end in answer.sides if end.verdict == verdict}
    where = " and at ".join(f"the {end}" for direction, end in _END_NAMES.items() if direction in directions)
    if verdict == DENY:
        return f"denied at {where}"
    if verdict == AUDIT:
        return f"passes in audit mode: enforced, it would be denied at {where}"
    return "allowed" if directions else "allowed: no policy applies to either end"


_END_NAMES: Final = {"egress": "source (egress)", "ingress": "destination (ingress)"}


def _service_text(service: ResolvedEnd, *, is_source: bool) -> str:
    address = service.ips[0]
    if is_source:
        return f"{address} is the address of Service {service.name}: connections come from pods, never from a Service"
    return (
        f"{address} is the address of Service {service.name}: policies are applied after DNAT, to the backend's own "
        "address and port. Ask about a backend: NAMESPACE/POD:PORT, with its targetPort"
    )


def _unknown_node_notes(view: PolicyView, ends: tuple[ResolvedEnd, ResolvedEnd]) -> tuple[str, ...]:
    """Warn where an end could be the pod's own node, but the node's addresses are not known."""
    return tuple(
        f"node {end.pod.node or '(none)'} of {end.name} is not known, so traffic with it is judged as traffic with an "
        "address outside the cluster"
        for end, other in (ends, ends[::-1])
        if end.pod is not None and other.pod is None and Name("", end.pod.node) not in view.nodes
    )
