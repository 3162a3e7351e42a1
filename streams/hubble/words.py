"""Hubble's numbers, and what of a record they stand for."""

from __future__ import annotations

from typing import Final

from enrich.wire.flow import End, Flow

UNKNOWN: Final = 0
FORWARDED, DROPPED, AUDIT = 1, 2, 4
VERDICTS: Final = {"allow": FORWARDED, "deny": DROPPED, "audit": AUDIT}
"""Hubble's verdict of each disposition. Its others (ERROR 3, REDIRECTED 5, TRACED 6, TRANSLATED 7) are about proxies
and load balancers, of which there are no records."""
DIRECTIONS: Final = {"ingress": 1, "egress": 2}
L3_L4: Final = 1
"""The type of a flow without anything of layer 7."""
DROP, POLICY_VERDICT = 1, 5
"""The types of events: a record is a policy verdict. A denied one is a drop, too, which Hubble reports as an event of
its own."""
MATCHED_BY_NOTHING: Final = 0
ALLOWED_WITHOUT_POLICY: Final = 4
"""Policy match types."""
HOST, WORLD, REMOTE_NODE = 1, 2, 6
IDENTITIES: Final = {HOST: "host", WORLD: "world", REMOTE_NODE: "remote-node"}
"""Hubble's reserved identities that a record tells. Those of pods are numbers that only Cilium gives."""
OBSERVER_EVENTS_QUEUE, HUBBLE_RING_BUFFER = 2, 3
"""Where events were lost."""
CONNECTED, GONE = 1, 3
"""States of nodes."""
SERVING, NOT_SERVING = 1, 2
"""Of the health check."""

POLICY_DENIED: Final = 133
DROP_REASONS: Final = {
    "default_deny": POLICY_DENIED,
    "explicit_deny": 181,  # POLICY_DENY
    "spoofed": 132,  # INVALID_SOURCE_IP
    "unparsable": 134,  # INVALID_PACKET_DROPPED
    "fragment": 175,  # FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND
    "not_ready": 203,  # DROP_EP_NOT_READY
    "forbidden_nd": 176,  # FORBIDDEN_ICMPV6_MESSAGE
    "map_full": 155,  # CT_MAP_INSERTION_FAILED
    "encapsulation": 170,  # ENCAPSULATION_TRAFFIC_IS_PROHIBITED
    "unknown_flow": 163,  # UNKNOWN_CONNECTION_TRACKING_STATE
    "policy_incomplete": 165,  # NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION
}
"""Hubble's drop reason that says the same as a reason of ours. Others have none: DROP_REASON_UNKNOWN."""


def drop_reason(flow: Flow) -> int:
    """Return Hubble's reason of a denial; 0 if it has none for it, or if nothing was denied."""
    return DROP_REASONS.get(flow.reason, UNKNOWN) if flow.disposition == "deny" else UNKNOWN


def identity(end: End, node: str) -> int:
    """Return the reserved identity of an end, as seen from the node that decided; 0 if it has none, or if it is not
    known."""
    if end.pod_name or end.ambiguous:
        return UNKNOWN
    if end.node_name:
        return HOST if end.node_name == node else REMOTE_NODE
    return WORLD if end.instance else UNKNOWN


def ip_version(ip: str) -> int:
    """Return 1 for an IPv4 address, 2 for an IPv6 address, 0 for none."""
    return (2 if ":" in ip else 1) if ip else 0
