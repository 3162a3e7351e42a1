"""Templates: the text that the records of similar verdicts share, with gaps for what differs.

Verdicts are similar if they differ only in addresses, ports, counts and times. A record is ``head + tail``: the head is
the connection, and the tail is everything else. The text between the gaps is rendered once for each combination of
endpoint, rule, protocol, verdict, reason and flags. :mod:`enrich.render.enricher` shows an example.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from enrich.render.fragments import SCHEMA_VERSION, EndRenderer, RenderedEnd, named_policies
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

MAX_TEMPLATE_BYTES: Final = 160 << 20
"""Bytes of templates and of what rings have learnt; at more, all are evicted."""
_TEMPLATE_BYTES: Final = 900
"""What a template takes beside its text, about: measured, and rounded up."""
_RING_BYTES: Final = 1500
"""What a ring takes, and what the templates of a rule share, about."""
_ENDPOINT_BYTES: Final = 400
"""What an endpoint's or a policy's name takes, about."""
_Meaning = TypeVar("_Meaning")
_DISPOSITIONS: Final = {int(v): v.name.lower() for v in Verdict}
_REASONS: Final = {int(reason): reason.name.lower() for reason in Reason}
_BY_POLICY: Final = frozenset({Reason.POLICY, Reason.EXPLICIT_DENY, Reason.ADOPTED})
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
        self.bytes = 0
        """About how much memory the templates take, and what their rings have learnt."""
        self._by_pod: defaultdict[str, set[tuple[RingTemplates, bytes]]] = defaultdict(set)
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
        self.bytes += _TEMPLATE_BYTES + sum(map(len, value.head)) + sum(map(len, value.tail))
        return super().add(value)

    def keep(self, uid: str, ring: RingTemplates, shape: bytes) -> None:
        """Note that the template of a shape names the pod with a UID."""
        self._by_pod[uid].add((ring, shape))

    def forget(self, uids: Iterable[str]) -> None:
        """Forget the templates that name some pods."""
        for uid in uids:
            for ring, shape in self._by_pod.pop(uid, ()):
                ring.forget(shape)


class _Decided(NamedTuple):
    """What the templates of all endpoints share that have a rule, protocol, verdict, reason and flags in common."""

    decision: Decision
    before: str
    """The text between connection and ends."""
    after: str
    """The text between the last timestamp and the number."""
    protocol: int
    verdict: int
    flags: int


class RingTemplates:
    """The templates of one ring. Endpoint and rule numbers keep their meaning for the life of a ring."""

    def __init__(self, header: Header, ends: EndRenderer, templates: Templates) -> None:
        self._header, self._ends = header, ends
        self._endpoints: dict[str, EndpointRef] = {}
        self._rules: dict[str, list[PolicyRef]] = {}
        self._templates = templates
        self._known: dict[bytes, int] = {}
        self._former: dict[bytes, list[tuple[int, int, int]]] = {}
        """Templates of former times: since and until when (not included) they hold, and their numbers."""
        self._decided: dict[tuple[int, ...], _Decided] = {}
        templates.bytes += _RING_BYTES

    def learn(self, header: Header) -> None:
        """Learn the meaning of numbers from a header. If it differs from an earlier header, the later one is right."""
        before = len(self._endpoints), len(self._rules)
        changed = _learn(self._endpoints, header.endpoints) | _learn(self._rules, header.rules)
        self._templates.bytes += (len(self._endpoints) - before[0]) * _ENDPOINT_BYTES
        for rule in tuple(self._rules)[before[1] :]:
            self._templates.bytes += _ENDPOINT_BYTES * (1 + len(self._rules[rule]))
        if changed:
            self._known.clear()
            self._former.clear()
            self._decided.clear()

    def templates(self, shapes: Sequence[bytes]) -> list[int]:
        """Return the number of the template for each :data:`SHAPE`."""
        found = list(map(self._known.get, shapes))
        if None in found:
            made = {shape: self._make(shape) for shape in set(shapes) - self._known.keys()}
            return [made[shape] if number is None else number for shape, number in zip(shapes, found, strict=True)]
        return found  # type: ignore[return-value]  # None was ruled out

    def forget(self, shape: bytes) -> None:
        """Forget the template of a shape."""
        self._known.pop(shape, None)
        self._former.pop(shape, None)

    def template_at(self, shape: bytes, at_ns: int) -> int:
        """Return the number of the template for a :data:`SHAPE` whose pod has changed since that moment."""
        for since, until, number in self._former.get(shape, ()):
            if since <= at_ns < until:
                return number
        endpoint, rule, *facts = np.frombuffer(shape, SHAPE)[0].tolist()
        ref = self._endpoints.get(str(endpoint))
        if ref is None:
            # A header may have a key such as "07", which no verdict's number is spelt like.
            return self.templates([shape])[0]
        refs = self._rules.get(str(rule))
        subject, since, until = self._ends.local_at(ref, self._header.node, at_ns)
        number = self._templates.add(self._render(ref, self._decide(refs or [], *facts), subject))
        if refs is not None or not rule:
            self._former.setdefault(shape, []).append((since, until, number))
            self._templates.keep(ref.uid, self, shape)
        return number

    def _make(self, shape: bytes) -> int:
        endpoint, rule, *facts = np.frombuffer(shape, SHAPE)[0].tolist()
        ref, refs = self._endpoints.get(str(endpoint)), self._rules.get(str(rule))
        known = refs is not None or not rule
        key = (rule, *facts)
        decided = self._decided.get(key)
        if decided is None:
            decided = self._decide(refs or [], *facts)
            if known:
                self._decided[key] = decided
                self._templates.bytes += _RING_BYTES
        number = self._templates.add(self._render(ref, decided, self._ends.local(ref, self._header.node)))
        if (ref or not endpoint) and known:
            self._known[shape] = number
            if ref is not None:
                self._templates.keep(ref.uid, self, shape)
        return number

    def _decide(self, refs: list[PolicyRef], protocol: int, kind: int, reason: int, flags: int) -> _Decided:
        header, verdict, aggregated = self._header, kind & ~INGRESS, bool(flags & AGGREGATED)
        named, by_policy = named_policies(refs), reason in _BY_POLICY
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
        return _Decided(decision, before, after, protocol, verdict, flags)

    def _render(self, ref: EndpointRef | None, decided: _Decided, subject: RenderedEnd) -> Template:
        decision, before, after, protocol, verdict, flags = decided
        inward = decision.direction == "ingress"
        opening = f'{before}"src":' if inward else f'{before}"src":{subject.json},"dest":'
        closing = f',"dest":{subject.json}' if inward else ""
        return Template(
            head=_head(protocol, decision.direction),
            tail=(opening, f'{closing},"count":', ',"timestamp":"', 'Z","last_timestamp":"', after, '"'),
            plain=protocol in WITH_PORTS and not decision.aggregated,
            protocol=protocol,
            flags=flags,
            key=f"{ref.namespace}/{ref.pod}".encode() if ref else self._header.node.encode(),
            denied=verdict in (Verdict.DENY, Verdict.AUDIT),
            allowed=verdict == Verdict.ALLOW,
            decision=decision,
            subject=subject,
        )


def shapes_of(verdicts: np.ndarray[Any, np.dtype[np.void]]) -> list[bytes]:
    """Return the :data:`SHAPE` of each verdict."""
    shapes = np.empty(len(verdicts), SHAPE)
    for name in SHAPE.fields or ():
        shapes[name] = verdicts[name]
    found: list[bytes] = shapes.view(f"V{SHAPE.itemsize}").tolist()
    return found


def _learn(known: dict[str, _Meaning], announced: dict[str, _Meaning]) -> bool:
    """Add what is announced, and return whether it changed the meaning of a known number."""
    changed = False
    for number, meaning in announced.items():
        if known.setdefault(number, meaning) != meaning:
            known[number] = meaning
            changed = True
    return changed


def _head(protocol: int, direction: str) -> tuple[str, str, str, str, str]:
    name = PROTOCOLS.get(protocol, str(protocol))
    return (
        '{"connection":{"src_ip":"',
        '","dest_ip":"',
        '","src_port":',
        ',"dest_port":',
        f',"protocol":"{name}","direction":"{direction}"}},',
    )
