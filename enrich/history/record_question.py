"""What is asked about a flow record when it is judged again, and how one decision answers it."""

from __future__ import annotations

import enum
import ipaddress
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import msgspec

from enrich.history.judging import JUDGED
from enrich.history.record_pods import Choice
from enrich.history.stand_ins import UnsayableError
from enrich.history.timeline import Scope, Segment
from enrich.model import Name, Node, Protocol
from enrich.policy.decide import Decision, decide
from enrich.policy.matching import Direction, Endpoint, PolicyView
from enrich.wire.batch import Reason, Verdict
from enrich.wire.flow import Flow

NODE: Final = Reason.NODE.name.lower()
REASONS: Final = frozenset(one.name.lower() for one in Reason)
_VERDICTS: Final = frozenset(one.name.lower() for one in Verdict)
_PORTS: Final = {one.name.lower(): one for one in Protocol}
_DIRECTIONS: Final = {one.name.lower(): one for one in Direction}
_NOWHERE: Final = Scope("")


class Outcome(enum.StrEnum):
    """What becomes of a record that is judged again."""

    AGREES = "agrees"
    """The policies in force at its time, as the journal has it, decide what was recorded."""
    LATE = "agrees late"
    """Those of a moment shortly before or after do."""
    DISAGREES = "disagrees"
    CANNOT_SAY = "cannot say"
    NOT_JUDGED = "no policy's"
    """No policy decided: the packet was forged, could not be parsed, met a full map, ..."""


class Judged(NamedTuple):
    """What is said of a record, and of all records that differ from it only in a time of the same span."""

    outcome: Outcome
    since_ns: int
    """The span begins."""
    until_ns: int
    """It ends before this."""
    text: str = ""
    """Why it disagrees, or cannot be judged."""
    is_nodes: bool = False
    """Whether it depends on what the record's node had in force just then, so that each record must be judged alone."""


@dataclass(frozen=True, slots=True)
class Stretches:
    """The time of one scope, cut where an answer may change."""

    segments: list[Segment]
    bounds: list[int]

    def near(self, at_ns: int, since_ns: int, until_ns: int) -> list[Segment]:
        """Return the segments of a time span, that of ``at_ns`` first: what agrees with it is not late."""
        found = (one for one in self.segments if one.since_ns <= until_ns and since_ns < one.until_ns)
        return sorted(found, key=lambda one: not one.since_ns <= at_ns < one.until_ns)

    def fitting(
        self, at_ns: int, fits: Callable[[Segment], bool], before_ns: int, after_ns: int
    ) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Return the segment of a time, and the part of it in which each segment from ``before_ns`` before a moment to
        ``after_ns`` after it fits; the part may be empty. None if the segment itself does not fit."""
        place = bisect_right(self.segments, at_ns, key=lambda one: one.since_ns) - 1
        if place < 0 or at_ns >= self.segments[place].until_ns or not fits(self.segments[place]):
            return None
        whole = since, until = self.segments[place][:2]
        for one in reversed(self.segments[:place]):
            if one.until_ns + before_ns <= since:
                break
            if not fits(one):
                since = one.until_ns + before_ns
        for one in self.segments[place + 1 :]:
            if one.since_ns - after_ns >= until:
                break
            if not fits(one):
                until = one.since_ns - after_ns
        return whole, (since, until)


@dataclass(eq=False, slots=True)
class Question:
    """What is asked of the policies about a record, and about all others that policies cannot tell apart from it."""

    flow: Flow
    """One of these records."""
    said: Judged | None = None
    """The answer, if it is the same at any time."""
    subjects: tuple[Choice, ...] = ()
    peers: tuple[Choice | None, ...] = ()
    """None if the peer is not a pod."""
    subject_ip: str = ""
    peer_ip: str = ""
    protocol: Protocol | None = None
    scope: Scope = _NOWHERE
    stretches: Stretches = field(default_factory=lambda: Stretches([], []))
    is_held: bool = False
    """Whether address intervals know several pods, or another one, at one of its addresses."""
    answers: dict[int, tuple[Outcome, str]] = field(default_factory=dict)
    """By the place of a time among the bounds of the stretches."""
    fitting: dict[int, tuple[list[bool], Decision]] = field(default_factory=dict)
    """By the begin of a segment: which of the possible pods it would have decided about as recorded."""


def connection_of(flow: Flow) -> tuple[Protocol | None, str, str]:
    """Return protocol, subject's and peer's address of a record. Raises UnsayableError if it cannot be judged."""
    if flow.disposition not in _VERDICTS or flow.reason not in REASONS:
        raise UnsayableError("it is not known what was decided, or why")
    ips = flow.connection.src_ip, flow.connection.dest_ip
    if flow.aggregated or not all(ips):
        raise UnsayableError("the record counts connections together, without addresses")
    if not flow.subject.pod_name:
        raise UnsayableError("it is not known which pod decided")
    if flow.peer.ambiguous or flow.subject.ambiguous:
        raise UnsayableError("it is not certain which pod, if any, had an address of the record")
    protocol = _PORTS.get(flow.protocol)
    if not flow.protocol or (protocol is not None and flow.connection.dest_port is None):
        raise UnsayableError("the protocol or the port is not known")
    try:
        source, destination = (str(ipaddress.ip_address(ip)) for ip in ips)
    except ValueError as error:
        raise UnsayableError("an address cannot be read") from error
    return (protocol, destination, source) if flow.direction == "ingress" else (protocol, source, destination)


def decided(question: Question, view: PolicyView, subject: Choice, peer: Choice | None) -> Decision:
    node = question.flow.node_name
    own = view.nodes.get(Name("", node))
    if own is not None and question.flow.reason == NODE and peer is None and _may_have(own, question.peer_ip):
        own = replace(own, ips=tuple(dict.fromkeys((*own.all_ips, question.peer_ip))))
        view = replace(view, nodes={**view.nodes, own.key: own})
    # The node that made the verdict is the subject's.
    placed = msgspec.structs.replace(subject.pod, node=node)
    endpoint = Endpoint(question.peer_ip, peer.pod if peer else None)
    port = (question.flow.connection.dest_port or 0) if question.protocol else 0
    return decide(view, placed, _DIRECTIONS[question.flow.direction], endpoint, question.protocol, port)


def _may_have(node: Node, ip: str) -> bool:
    """Return whether an address may be a node's: it is listed, or in the range of its pods, as that of a bridge is."""
    return ip in node.all_ips or any(ipaddress.ip_address(ip) in ipaddress.ip_network(cidr) for cidr in node.pod_cidrs)


def fits(decision: Decision, flow: Flow) -> bool:
    if decision.verdict.name.lower() != flow.disposition:
        return False
    if flow.reason not in JUDGED:
        return True
    named = {(one.kind, one.namespace, one.name) for one in (*flow.policies, *flow.isolated_by)}
    return decision.reason.name.lower() == flow.reason and named <= {
        (one.kind, one.namespace, one.name) for one in decision.policies
    }


def in_words(decision: Decision) -> str:
    named = sorted({f"{one.namespace}/{one.name}".lstrip("/") for one in decision.policies})
    return f"{decision.verdict.name.lower()}, {decision.reason.name.lower().replace('_', ' ')}" + (
        f" ({', '.join(named)})" if named else ""
    )
