"""Pairs: hourly counts of each distinct combination of ends, port, verdict and policies, on ``<prefix>.pairs``.

One record holds the counts of one combination in one hour, as far as one *segment* of one partition of the raw topic
counted them. A worker that takes a partition over begins a segment. A later record of the same key replaces an earlier
one (its counts are cumulative), and the topic is compacted; a reader adds the segments up.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from enrich.wire.bounds import Cluster, Count, NamespaceOrNone, Nanoseconds, Octet, Port
from enrich.wire.references import PolicyRef

VERSION: Final = 1
HOUR_NS: Final = 3_600 * 1_000_000_000
MAX_EXAMPLES: Final = 3


class PairEnd(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An end: a profile, a node, or addresses that are neither."""

    profile: str = ""
    """The number of a profile (:mod:`enrich.history.profile`); empty if the end is not a pod that is known."""
    namespace: NamespaceOrNone = ""
    workload: str = ""
    """``KIND/NAME``, for tables that have no journal at hand; empty if nothing runs the pod."""
    node: str = ""
    """The name of a node, if the end is one, or a pod of its network."""
    block: str = ""
    """An address outside the cluster as a CIDR: /32 or /128, or wider if ``coarse``."""
    coarse: bool = False
    """The block stands for further addresses of it, because the workload had too many peers in this hour."""
    unknown: bool = False
    """The end was a pod's that could not be named for certain (``ambiguous``), or had no address at all."""


class PairKey(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The combination that is counted."""

    subject: PairEnd
    """The pod whose policy decided."""
    peer: PairEnd
    direction: Literal["ingress", "egress"]
    """As the subject sees it."""
    protocol: Octet
    """IANA number."""
    port: Port = 0
    """The destination's port; of ICMP ``type << 8 | code``. 0 where there is none. Never an ephemeral port."""
    verdict: Literal["allow", "deny", "audit"]
    reason: str
    policies: tuple[PolicyRef, ...] = ()
    """Each with the index of its rule that decided, as verdicts name them."""
    service: str = ""
    """``NAMESPACE/NAME`` of the Service that was dialled."""


class Pair(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The counts of one combination in one hour and one segment. Times are nanoseconds of the wall clock."""

    v: int = VERSION
    cluster: Cluster
    hour: Count
    """Hours since the epoch; :data:`HOUR_NS`."""
    key: PairKey
    verdicts: Count
    """Verdicts counted. Of an allow each is a connection."""
    packets: Count
    """Packets that these verdicts count; of denies all that were dropped."""
    first_ns: Nanoseconds
    last_ns: Nanoseconds
    examples: tuple[str, ...] = ()
    """Up to :data:`MAX_EXAMPLES` ids of records."""
    segment: str = ""
    """Which partition of the raw topic, and the offset at which its counting began: ``PARTITION-OFFSET``."""
