"""The tables of `weir sql`: their columns, with types as DuckDB names them, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple


class Column(NamedTuple):
    """A column of a table."""

    name: str
    type: str
    about: str


class Described(NamedTuple):
    """A table for people."""

    about: str
    columns: Sequence[Column]


RULE: Final = "STRUCT(kind VARCHAR, namespace VARCHAR, name VARCHAR, rule UINTEGER)[]"
PORTS: Final = "STRUCT(name VARCHAR, port USMALLINT, protocol VARCHAR)[]"
LABELS: Final = "MAP(VARCHAR, VARCHAR)"
_DECISION: Final = (
    Column("disposition", "VARCHAR", "allow, deny, audit or unknown"),
    Column("reason", "VARCHAR", "why, as in docs/record.md"),
    Column("direction", "VARCHAR", "ingress or egress, as the subject sees it"),
)
_POLICIES: Final = "the policies that allow it, or the one that denies it explicitly; each with the index of its rule"
_ISOLATED_BY: Final = "for a default deny: the policies that isolate the pod"
_ICMP: Final = (
    Column("icmp_type", "UTINYINT", "NULL unless the protocol is icmp or icmpv6"),
    Column("icmp_code", "UTINYINT", "likewise"),
)


def _end(name: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_namespace", "VARCHAR", f"the {name}'s namespace, if it is a pod"),
        Column(f"{name}_workload_kind", "VARCHAR", "what runs it: Deployment, StatefulSet, CronJob, ..."),
        Column(f"{name}_workload_name", "VARCHAR", "its name"),
        Column(f"{name}_profile", "VARCHAR", "its profile; NULL if its labels were not known for certain"),
        Column(f"{name}_node_name", "VARCHAR", "the node, if the end is one"),
        Column(f"{name}_block", "VARCHAR", "an address outside the cluster: /32 or /128, wider if coarse"),
        Column(f"{name}_coarse", "BOOLEAN", "it stands for further ends, because there were too many"),
        Column(f"{name}_unknown", "BOOLEAN", "the end could not be named for certain"),
    )


VERDICTS: Final = (
    # DuckDB takes the first column where a query needs none, as count(*) does. This one is made in any case.
    Column("timestamp", "TIMESTAMP", "of the first packet counted, by the node's clock, UTC, to the microsecond"),
    Column("last_timestamp", "TIMESTAMP", "of the last packet counted, to the millisecond"),
    *_DECISION,
    Column("src_ip", "VARCHAR", "source address; NULL if aggregated or not parsed"),
    Column("dest_ip", "VARCHAR", "destination address, after a Service's DNAT"),
    Column("src_port", "USMALLINT", "NULL unless the protocol is tcp, udp or sctp"),
    Column("dest_port", "USMALLINT", "likewise"),
    Column("protocol", "VARCHAR", "tcp, udp, sctp, icmp, icmpv6, or the IANA number"),
    *_ICMP,
    Column("dialled_ip", "VARCHAR", "the Service's address that was dialled; NULL without DNAT"),
    Column("dialled_port", "USMALLINT", "the port that was dialled"),
    Column("subject_namespace", "VARCHAR", "the namespace of the pod whose policy decided"),
    Column("subject_pod_name", "VARCHAR", "its name"),
    Column("subject_pod_uid", "VARCHAR", "its UID"),
    Column("peer_ip", "VARCHAR", "the address of the other end; who had it, only flows say"),
    Column("policies", RULE, _POLICIES),
    Column("isolated_by", RULE, _ISOLATED_BY),
    Column("count", "UINTEGER", "packets of a denied flow that this verdict counts; 1 for an allowed connection"),
    Column("node_name", "VARCHAR", "the node that decided"),
    Column("cluster", "VARCHAR", "the cluster"),
    Column("id", "VARCHAR", "the record's id"),
    Column("aggregated", "BOOLEAN", "counts many denied flows together, without addresses"),
    Column("logged", "BOOLEAN", "false for a denial that is not logged, and that weir observe does not show"),
)
PAIRS: Final = (
    Column("hour", "TIMESTAMP", "the hour that is counted, UTC"),
    *_end("subject"),
    *_end("peer"),
    *_DECISION,
    Column("protocol", "VARCHAR", "tcp, udp, sctp, icmp, icmpv6, or the IANA number"),
    Column("dest_port", "USMALLINT", "0 if it may be the client's; NULL for icmp"),
    *_ICMP,
    Column("policies", RULE, _POLICIES),
    Column("isolated_by", RULE, _ISOLATED_BY),
    Column("service_namespace", "VARCHAR", "of the Service that was dialled"),
    Column("service_name", "VARCHAR", "of the Service that was dialled"),
    Column("verdicts", "UBIGINT", "how many verdicts; of allows, each is a connection"),
    Column("packets", "UBIGINT", "how many packets they count"),
    Column("timestamp", "TIMESTAMP", "of the first packet, to the second"),
    Column("last_timestamp", "TIMESTAMP", "of the last packet, to the second"),
    Column("examples", "VARCHAR[]", "ids of up to three records"),
    Column("cluster", "VARCHAR", "the cluster"),
)
POLICIES: Final = (
    Column("kind", "VARCHAR", "NetworkPolicy, ClusterNetworkPolicy, ..."),
    Column("namespace", "VARCHAR", "NULL for all kinds but NetworkPolicy"),
    Column("name", "VARCHAR", "its name"),
    Column("since", "TIMESTAMP", "from when on it was in this state, UTC"),
    Column("until", "TIMESTAMP", "until when; NULL: until the end of the window, at least"),
    Column("changed_by", "VARCHAR", "who made this version, as the API server names the manager"),
    Column("resource_version", "VARCHAR", "of this version"),
    Column("generation", "UBIGINT", "of this version"),
    Column("audit", "BOOLEAN", "it is only audited"),
    Column("object", "VARCHAR", "the policy as JSON, in the form of the journal: object->>'$.pods'"),
    Column("cluster", "VARCHAR", "the cluster"),
)
PROFILES: Final = (
    Column("profile", "VARCHAR", "its number, which pairs have"),
    Column("namespace", "VARCHAR", "the pods' namespace"),
    Column("workload_kind", "VARCHAR", "what runs them"),
    Column("workload_name", "VARCHAR", "its name"),
    Column("labels", LABELS, "their labels, without those that differ by pod or rollout: labels['app']"),
    Column("ports", PORTS, "the container ports that have names"),
    Column("host_network", "BOOLEAN", "they are in the network of their node"),
    Column("cluster", "VARCHAR", "the cluster"),
)
TABLES: Final[Mapping[str, Described]] = {
    "verdicts": Described("each decision, as probes sent it: five-tuples, and the pod whose policy decided", VERDICTS),
    "pairs": Described("hourly counts of each combination of ends, port, verdict and policies (WEIR_PAIRS=1)", PAIRS),
    "policies": Described("each version of each policy that was in force in the window", POLICIES),
    "profiles": Described("kinds of pods: namespace, workload, labels and named ports", PROFILES),
}
