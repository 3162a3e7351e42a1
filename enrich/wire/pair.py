"""Pairs: hourly counts of each distinct combination of ends, port, verdict and policies, on ``<prefix>.pairs``.

THEORY OF OPERATION

A year of a large cluster has hundreds of millions of pairs, so the topic does not hold one record for each. A worker
numbers the combinations that it meets, and writes records of two forms (:mod:`enrich.wire.pair_records`): the
*names* of combinations, once, and the *counts* of an hour, as columns. What is counted belongs to a *segment*: a worker
begins one when it starts, and a new one each day. :class:`Pair` is what a reader puts together from both forms.

Counts are cumulative. A later record of the same hour and segment replaces an earlier one, and the topic is compacted.
Of several segments that counted the same combination in the same hour, a reader adds the counts up.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from enrich.wire.bounds import Cluster, Count, LossReason, NamespaceOrNone, Nanoseconds, Octet, Port
from enrich.wire.references import PolicyRef

VERSION: Final = 1
HOUR_NS: Final = 3_600 * 1_000_000_000
MAX_EXAMPLES: Final = 3
MAX_RULES: Final = 1024

ProfileNumber = Annotated[str, Meta(max_length=16, pattern=r"\A([0-9a-f]{16})?\Z")]
WorkloadPath = Annotated[str, Meta(max_length=317, pattern=r"\A[!-~]*\Z")]
NodeName = Annotated[str, Meta(max_length=253, pattern=r"\A([A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?)?\Z")]
Block = Annotated[str, Meta(max_length=43, pattern=r"\A([0-9a-f:.]+/[0-9]{1,3})?\Z")]
ServicePath = Annotated[str, Meta(max_length=317, pattern=r"\A([a-z0-9][-a-z0-9]*/[a-z0-9][-a-z0-9.]*)?\Z")]
SegmentId = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[!-.0-~]+\Z")]
RecordId = Annotated[str, Meta(max_length=96, pattern=r"\A[!-~]+\Z")]
Rules = Annotated[tuple[PolicyRef, ...], Meta(max_length=MAX_RULES)]


class PairEnd(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An end: a profile, a node, or addresses that are neither."""

    profile: ProfileNumber = ""
    """The number of a profile (:mod:`enrich.history.profile`); empty if the end is not a pod that is known."""
    namespace: NamespaceOrNone = ""
    workload: WorkloadPath = ""
    """``KIND/NAME``, for tables that have no journal at hand; empty if nothing runs the pod."""
    node: NodeName = ""
    """The name of a node, if the end is one, or a pod of its network."""
    block: Block = ""
    """An address outside the cluster as a CIDR: /32 or /128, or wider if ``coarse``."""
    coarse: bool = False
    """The block stands for further addresses of it, because the workload had too many peers in this hour. Without a
    block: the end stands for any, because there were too many combinations in this hour."""
    unknown: bool = False
    """The end was a pod's that could not be named for certain (``ambiguous``, or its labels were not known), or had no
    address at all."""


class PairKey(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The combination that is counted."""

    subject: PairEnd
    """The pod whose policy decided."""
    peer: PairEnd
    direction: Literal["ingress", "egress"]
    """The direction that the subject sees."""
    protocol: Octet
    """IANA number; 0 if it is not known."""
    port: Port = 0
    """The destination's port; of ICMP ``type << 8 | code``. 0 where there is none, where the destination may be the
    client's side, and where one end tried very many ports of another in one hour. Never an ephemeral port of a
    client."""
    verdict: Literal["allow", "deny", "audit", "unknown"]
    reason: LossReason
    policies: Rules = ()
    """Each with the index of its rule that decided, as verdicts name them."""
    service: ServicePath = ""
    """``NAMESPACE/NAME`` of the Service that was dialled."""


class Pair(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The counts of one combination in one hour and one segment.

    Times are nanoseconds of the wall clock, cut to whole seconds."""

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
    examples: tuple[RecordId, ...] = ()
    """Up to :data:`MAX_EXAMPLES` ids of records with this combination, the first that the segment saw. They may be of
    an earlier hour of the same day."""
    segment: SegmentId = "-"
    """Who counted: a random id of a worker's day."""
