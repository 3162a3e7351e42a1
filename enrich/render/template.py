"""Templates: the text that the records of similar verdicts share, with gaps for what differs.

Verdicts are similar if they differ only in addresses, ports, counts and times. A record is ``head + tail``: the head is
the connection, and the tail is everything else. The text between the gaps is rendered once for each combination of
endpoint, rule, protocol, verdict, reason and flags. :mod:`enrich.render.enricher` shows an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from enrich.render.fragments import SCHEMA_VERSION, RenderedEnd, named_policies
from enrich.render.interning import InternTable
from enrich.wire.batch import AGGREGATED, CUT, INGRESS, EndpointRef, Header, PolicyRef, Reason, Verdict
from enrich.wire.flow import Connection, Decision, Icmp, encode

PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
"""The name in a record of each IANA protocol number; the record of any other protocol has the number as text."""
WITH_PORTS: Final = frozenset({6, 17, 132})
ICMP: Final = frozenset({1, 58})

SHAPE: Final = np.dtype(
    [("endpoint", "<u4"), ("rule", "<u4"), ("protocol", "u1"), ("verdict", "u1"), ("reason", "u1"), ("flags", "u1")]
)
"""The fields of a verdict that select its template."""

_TEMPLATE_BYTES: Final = 750
"""What a template takes beside its text, about: measured, and rounded up."""
_DISPOSITIONS: Final = {int(v): v.name.lower() for v in Verdict}
_REASONS: Final = {int(reason): reason.name.lower() for reason in Reason}
BY_POLICY: Final = frozenset({Reason.POLICY, Reason.EXPLICIT_DENY, Reason.ADOPTED})
"""The reasons for which a rule number stands for the policies that decided. For other reasons, such as a default deny,
it stands for the policies that isolate the pod."""


class Template(NamedTuple):
    """The text and the facts that verdicts of one shape share."""

    head: tuple[str, str, str, str, str]
    """The gaps are for the source address, the destination address, the source port and the destination port."""
    tail: tuple[str, str, str, str, str, str]
    """The gaps are for the peer, the count, both times, the number and the dialled address."""
    plain: bool
    """Whether the head has all four gaps."""
    protocol: int
    flags: int
    key: bytes
    denied: bool
    allowed: bool
    decision: Decision
    subject: RenderedEnd
    """The end whose policy decided."""
    rules: tuple[PolicyRef, ...] = ()
    """The policies that its rule number stands for, each with the index of its rule."""

    @property
    def cost(self) -> int:
        """About how many bytes of memory it takes, without its subject."""
        return _TEMPLATE_BYTES + sum(map(len, self.tail))

    def filled(self, source: str, destination: str, first: int, second: int) -> str:
        """Fill the head of any verdict. An address that is not known is empty text; ports of ICMP are its type and
        code."""
        if self.plain and source and destination:
            o, p, q, r, s = self.head
            return f"{o}{source}{p}{destination}{q}{first}{r}{second}{s}"
        connection, icmp = self.connection(source, destination, first, second)
        icmp_member = f',"icmp":{encode(icmp)}' if icmp else ""
        return f'{{"connection":{encode(connection)}{icmp_member},'

    def connection(self, source: str, destination: str, first: int, second: int) -> tuple[Connection, Icmp | None]:
        """Return the connection of a verdict, and its ICMP type and code if it has them. ``first`` and ``second`` are
        its ports; the kernel puts the ICMP type and code in place of the second."""
        if self.flags & AGGREGATED:
            source = destination = ""
        parsed = bool(source or destination)
        ported = parsed and self.protocol in WITH_PORTS
        connection = Connection(
            src_ip=source,
            dest_ip=destination,
            src_port=first if ported else None,
            dest_port=second if ported else None,
            protocol=self.decision.protocol,
            direction=self.decision.direction,
        )
        return connection, Icmp(type=second >> 8, code=second & 0xFF) if parsed and self.protocol in ICMP else None


class Templates(InternTable[Template]):
    """Templates by number, and tables of the parts that each record needs.

    A template that was forgotten keeps its number, because records that were handed out refer to it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: InternTable[tuple[str, str, str, str, str]] = InternTable()
        self.tails: InternTable[tuple[str, str, str, str, str, str]] = InternTable()
        self.keys: InternTable[bytes] = InternTable()
        self.denied: InternTable[bool] = InternTable()
        self.plain: InternTable[bool] = InternTable()

    def add(self, value: Template) -> int:
        """Add a template and return its number."""
        self.heads.add(value.head)
        self.tails.add(value.tail)
        self.keys.add(value.key)
        self.denied.add(value.denied)
        self.plain.add(value.plain)
        return super().add(value)


class Decided(NamedTuple):
    """What the templates of all endpoints share that have a rule, protocol, verdict, reason and flags in common."""

    decision: Decision
    head: tuple[str, str, str, str, str]
    before: str
    """The text between connection and ends."""
    after: str
    """The text between the last timestamp and the number."""
    protocol: int
    verdict: int
    flags: int
    rules: tuple[PolicyRef, ...]


def decide(header: Header, refs: list[PolicyRef], shape: Sequence[int]) -> Decided:
    """Render what a ring's verdicts have in common that have a protocol, a verdict, a reason and flags in common.

    ``refs`` is the meaning of their rule number."""
    protocol, kind, reason, flags = shape
    verdict, aggregated = kind & ~INGRESS, bool(flags & AGGREGATED)
    named, by_policy = named_policies(refs), reason in BY_POLICY
    decision = Decision(
        direction="ingress" if kind & INGRESS else "egress",
        protocol=PROTOCOLS.get(protocol, str(protocol)) if protocol and not aggregated else "",
        disposition=_DISPOSITIONS.get(verdict, "unknown"),
        reason=_REASONS.get(reason, "unknown"),
        policies=named if by_policy else (),
        isolated_by=() if by_policy else named,
        node_name=header.node,
        aggregated=aggregated,
        logged=verdict not in (Verdict.DENY, Verdict.AUDIT) or not flags & CUT,
    )
    before = "".join(
        (
            f'"disposition":"{decision.disposition}","reason":"{decision.reason}"',
            f',"policies":{encode(decision.policies)},"isolated_by":{encode(decision.isolated_by)},',
        )
    )
    after = "".join(
        (
            f'Z","node_name":{encode(header.node)},"cluster":{encode(header.cluster)},"schema":{SCHEMA_VERSION}',
            ',"aggregated":true' if aggregated else "",
            "" if decision.logged else ',"logged":false',
            f',"id":{encode(header.ring)[:-1]}-',
        )
    )
    head = _head(protocol, decision.direction)
    return Decided(decision, head, before, after, protocol, verdict, flags, tuple(refs))


def make_template(ref: EndpointRef | None, decided: Decided, subject: RenderedEnd) -> Template:
    """Render the template of an endpoint's verdicts."""
    decision, head, before, after, protocol, verdict, flags, rules = decided
    inward = decision.direction == "ingress"
    opening = f'{before}"src":' if inward else f'{before}"src":{subject.json},"dest":'
    closing = f',"dest":{subject.json}' if inward else ""
    return Template(
        head=head,
        tail=(opening, f'{closing},"count":', ',"timestamp":"', 'Z","last_timestamp":"', after, '"'),
        plain=protocol in WITH_PORTS and not decision.aggregated,
        protocol=protocol,
        flags=flags,
        key=f"{ref.namespace}/{ref.pod}".encode() if ref else decision.node_name.encode(),
        denied=verdict in (Verdict.DENY, Verdict.AUDIT),
        allowed=verdict == Verdict.ALLOW,
        decision=decision,
        subject=subject,
        rules=rules,
    )


def shapes_of(verdicts: np.ndarray[Any, np.dtype[np.void]]) -> list[bytes]:
    """Return the :data:`SHAPE` of each verdict."""
    shapes = np.empty(len(verdicts), SHAPE)
    for name in SHAPE.fields or ():
        shapes[name] = verdicts[name]
    found: list[bytes] = shapes.view(f"V{SHAPE.itemsize}").tolist()
    return found


def _head(protocol: int, direction: str) -> tuple[str, str, str, str, str]:
    name = PROTOCOLS.get(protocol, str(protocol))
    return (
        '{"connection":{"src_ip":"',
        '","dest_ip":"',
        '","src_port":',
        ',"dest_port":',
        f',"protocol":"{name}","direction":"{direction}"}},',
    )
