"""What was seen, as far as advice needs it: each distinct question about policy, with its evidence.

A pair is one answer that was given in one hour. Advice asks again, so it leaves out who answered (policies, reason) and
adds up the hours. What cannot be asked again is left out and named: a peer that was not known, a profile that the
journal does not have, a denial that no policy decided.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import msgspec

from enrich.history.distinctions import Network
from enrich.history.moments import moment
from enrich.history.pair_hours import TooManyPairsError
from enrich.history.profile import PORT_PROTOCOLS
from enrich.history.stand_ins import direction_of, profile_at
from enrich.policy.matching import Direction
from enrich.wire.batch import Reason
from enrich.wire.journal import Profile
from enrich.wire.pair import Pair, PairEnd, PairKey

_BY_POLICY: Final = frozenset(reason.name.lower() for reason in (Reason.DEFAULT_DENY, Reason.EXPLICIT_DENY))
_ALWAYS: Final = frozenset(reason.name.lower() for reason in (Reason.NODE, Reason.SELF))
_WIDEST: Final = {4: 24, 6: 64}
"""The widest block that stands for addresses outside the cluster, by IP version (:mod:`enrich.wire.pair`)."""

MAX_DISTINCT: Final = 1_000_000
"""Combinations whose evidence is kept, up to 1.5 kB each."""


class LeftOut(enum.Enum):
    """Why some traffic has no part in a recommendation. The value is for people."""

    SUBJECT = "the journal has no labels of the pod whose policy decided"
    HOST_NETWORK = "the pod uses its node's network, where a NetworkPolicy selects nothing"
    PEER = "the other end is not known for certain"
    PEER_LABELS = "the journal has no labels of the other end"
    PEER_NODE = "the other end is a node that is not there any more"
    PORT = "the port is not known, or one end tried very many of them"
    VERDICT = "the verdict is not known"
    NOT_POLICY = "denied, but not by a policy"
    AUDIT = "audited: it passed, and a policy in audit mode would deny it"
    PORTLESS = "a NetworkPolicy cannot name this protocol, only allow all ports of all protocols"
    CLUSTER_POLICY = "a policy of the Admin tier denies it today, and no NetworkPolicy can allow it"
    BOTH = "seen allowed and denied, and no labels tell the two apart"


UNABLE: Final = frozenset({LeftOut.PORTLESS, LeftOut.CLUSTER_POLICY, LeftOut.BOTH, LeftOut.PEER_NODE})
"""Why an allowed connection is known and is not allowed by the recommendation. The proof counts it as denied."""


@dataclass(slots=True)
class Evidence:
    """How often something was seen, and when."""

    connections: int = 0
    packets: int = 0
    first_ns: int = 0
    last_ns: int = 0
    subjects: set[str] = field(default_factory=set)
    """Numbers of profiles."""
    peers: set[str] = field(default_factory=set)
    """Numbers of profiles, names of nodes, blocks."""
    services: set[str] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)

    def add(self, pair: Pair) -> None:
        """Add the counts of one pair."""
        key = pair.key
        self.connections += pair.verdicts
        self.packets += pair.packets
        self.first_ns = min(self.first_ns or pair.first_ns, pair.first_ns)
        self.last_ns = max(self.last_ns, pair.last_ns)
        self.subjects.add(key.subject.profile)
        self.peers.add(key.peer.profile or key.peer.node or key.peer.block)
        if key.service:
            self.services.add(key.service)
        if not self.examples:
            self.examples.extend(pair.examples)

    def merge(self, other: Evidence) -> None:
        """Add what another one counts."""
        self.connections += other.connections
        self.packets += other.packets
        self.first_ns = min(self.first_ns or other.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)
        self.subjects |= other.subjects
        self.peers |= other.peers
        self.services |= other.services
        self.examples = self.examples or list(other.examples)


def merged(evidence: Iterable[Evidence]) -> Evidence:
    """Return the sum of some evidence."""
    total = Evidence()
    for one in evidence:
        total.merge(one)
    return total


@dataclass(frozen=True, slots=True)
class Question:
    """A connection as policy sees it, without the answer."""

    key: PairKey
    """Verdict, reason and policies are left out (allow, none), except where they say whether a node is the subject's
    own."""

    @property
    def subject(self) -> str:
        """The number of the profile whose policies decide."""
        return self.key.subject.profile

    @property
    def direction(self) -> Direction:
        """The direction, as the subject sees it."""
        return direction_of(self.key)

    @property
    def peer(self) -> PairEnd:
        """The other end."""
        return self.key.peer

    @property
    def protocol(self) -> int:
        """IANA number."""
        return self.key.protocol

    @property
    def port(self) -> int:
        """The destination's port."""
        return self.key.port


@dataclass(slots=True)
class Traffic:
    """What was seen in a window."""

    allowed: dict[Question, Evidence]
    denied: dict[Question, Evidence]
    """Denied by policy."""
    always: dict[Question, Evidence]
    """Passes with any policies: between a pod and itself, and between a pod and its own node."""
    left_out: dict[tuple[LeftOut, PairKey], Evidence]

    def judged(self) -> Iterator[Question]:
        """Yield every connection that policies may be asked about."""
        yield from self.allowed
        yield from self.denied
        yield from self.always

    def of(self, namespace: str) -> Traffic:
        """Return the part whose subjects are in a namespace."""

        def own(found: Mapping[Question, Evidence]) -> dict[Question, Evidence]:
            return {key: value for key, value in found.items() if key.key.subject.namespace == namespace}

        left_out = {key: value for key, value in self.left_out.items() if key[1].subject.namespace == namespace}
        return Traffic(own(self.allowed), own(self.denied), own(self.always), left_out)


def traffic_of(
    pairs: Iterable[Pair],
    profiles: Mapping[str, Profile],
    namespace: str | None = None,
    max_distinct: int = MAX_DISTINCT,
) -> Traffic:
    """Sort pairs by what advice can do with them. ``namespace`` chooses those whose subject is in it.

    Raises :class:`~enrich.history.pair_hours.TooManyPairsError` for more than ``max_distinct`` combinations."""
    by_key: defaultdict[PairKey, Evidence] = defaultdict(Evidence)
    for pair in pairs:
        if namespace is None or pair.key.subject.namespace == namespace:
            by_key[pair.key].add(pair)
            if len(by_key) > max_distinct:
                raise TooManyPairsError(
                    f"more than {max_distinct:,} distinct combinations were seen up to {moment(pair.last_ns)}: "
                    "ask about a namespace, or about a shorter window"
                )
    found = Traffic({}, {}, {}, {})
    for key, evidence in by_key.items():
        if (reason := _why_left_out(key, profiles)) is not None:
            found.left_out[reason, key] = evidence
            continue
        always = key.verdict == "allow" and key.reason in _ALWAYS
        into = found.always if always else found.allowed if key.verdict == "allow" else found.denied
        into.setdefault(question_of(key), Evidence()).merge(evidence)
    return found


def question_of(key: PairKey) -> Question:
    """Return what was asked when this pair was decided."""
    if key.peer.node or key.reason in _ALWAYS:
        return Question(msgspec.structs.replace(key, service=""))
    return Question(msgspec.structs.replace(key, service="", verdict="allow", reason="", policies=()))


def _why_left_out(key: PairKey, profiles: Mapping[str, Profile]) -> LeftOut | None:
    subject, peer = profile_at(key.subject, profiles), key.peer
    if key.verdict not in ("allow", "deny", "audit"):
        return LeftOut.VERDICT
    if key.verdict == "deny" and key.reason not in _BY_POLICY:
        return LeftOut.NOT_POLICY
    if subject is None:
        return LeftOut.SUBJECT
    if subject.host_network:
        return LeftOut.HOST_NETWORK
    if key.verdict == "audit":
        return LeftOut.AUDIT
    if key.verdict == "allow" and key.reason in _ALWAYS:
        return None
    if not key.protocol or (key.protocol in PORT_PROTOCOLS and not key.port):
        return LeftOut.PORT
    if peer.unknown or not (peer.profile or peer.node or _is_narrow(peer.block)):
        return LeftOut.PEER
    if peer.profile and ((found := profile_at(peer, profiles)) is None or found.host_network):
        return LeftOut.PEER_LABELS
    return None


def _is_narrow(block: str) -> bool:
    """Return whether a block is one that a worker may make of addresses. Whoever can write to the topic could write
    0.0.0.0/0, and no recommendation may follow from it."""
    try:
        found = network(block)
    except ValueError:
        return False
    return found.prefixlen >= _WIDEST[found.version]


@lru_cache(maxsize=65_536)
def network(block: str) -> Network:
    """Return the network that a block of a pair names. Raises ValueError for another text."""
    return ipaddress.ip_network(block, strict=False)


def inside(inner: Network, outer: Network) -> bool:
    """Return whether every address of one network belongs to the other."""
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # one version
