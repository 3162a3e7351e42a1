"""A shop of a few workloads, and pairs of its traffic, for tests of advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from enrich.history.profile import number_of
from enrich.model import Name, Namespace, Node
from enrich.policy.matching import PolicyView
from enrich.wire.batch import Reason
from enrich.wire.journal import ContainerPort, Profile
from enrich.wire.pair import HOUR_NS, Pair, PairEnd, PairKey
from enrich.wire.references import PolicyRef

NAME_LABEL = "kubernetes.io/metadata.name"
HOUR = 480_000
TCP, UDP, ICMP = 6, 17, 1


def profile(
    namespace: str, workload: str, labels: Mapping[str, str], ports: tuple[tuple[str, int, int], ...] = (), **more: Any
) -> Profile:
    """Make a profile; ``workload`` is KIND/NAME or empty."""
    kind, _, name = workload.partition("/")
    return Profile(
        namespace=namespace,
        workload_kind=kind,
        workload_name=name,
        labels=dict(labels),
        ports=tuple(ContainerPort(*port) for port in ports),
        **more,
    )


WEB = profile("shop", "Deployment/web", {"app": "web", "version": "1"}, (("http", 8080, TCP),))
WEB2 = profile("shop", "Deployment/web", {"app": "web", "version": "2"}, (("http", 8080, TCP),))
DB = profile("shop", "StatefulSet/db", {"app": "db"}, (("postgres", 5432, TCP),))
BACKUP = profile("shop", "CronJob/backup", {"app": "backup"})
INGRESS = profile("edge", "DaemonSet/ingress", {"app.kubernetes.io/name": "ingress"})
DNS = profile(
    "kube-system",
    "Deployment/coredns",
    {"k8s-app": "kube-dns"},
    (("dns", 53, UDP), ("dns-tcp", 53, TCP), ("metrics", 9153, TCP)),
)
PROFILES = {number_of(one): one for one in (WEB, WEB2, DB, BACKUP, INGRESS, DNS)}


def view(*namespaces: str, **more: Any) -> PolicyView:
    """Make a state with these namespaces, the shop's by default, and two nodes."""
    found = [Namespace(name, name, {NAME_LABEL: name}) for name in namespaces or ("shop", "edge", "kube-system")]
    nodes = [Node(f"n{number}", f"n{number}", {}, (f"192.168.0.{number}",)) for number in (1, 2)]
    fields: dict[str, Any] = {
        "pods": {},
        "namespaces": {one.key: one for one in found},
        "nodes": {Name("", one.name): one for one in nodes},
        "policies": {},
        "cluster_policies": {},
        **more,
    }
    return PolicyView(**fields)


def end(other: Profile | str) -> PairEnd:
    """Make an end: a profile, a block, ``node:NAME``, or ``?`` for one that is not known."""
    if isinstance(other, Profile):
        workload = f"{other.workload_kind}/{other.workload_name}" if other.workload_name else ""
        return PairEnd(profile=number_of(other), namespace=other.namespace, workload=workload)
    if other == "?":
        return PairEnd(unknown=True)
    if other.startswith("node:"):
        return PairEnd(node=other.removeprefix("node:"))
    return PairEnd(block=other, coarse=not other.endswith(("/32", "/128")))


def pair(
    subject: Profile,
    direction: Literal["ingress", "egress"],
    peer: Profile | str,
    port: int,
    verdict: Literal["allow", "deny", "audit"] = "allow",
    *,
    protocol: int = TCP,
    reason: Reason | None = None,
    hour: int = HOUR,
    connections: int = 10,
    service: str = "",
    policies: tuple[PolicyRef, ...] = (),
) -> Pair:
    """Make a pair of one hour. The reason is that of a cluster without policies, or of a default denial."""
    given = reason or (Reason.NO_POLICY if verdict == "allow" else Reason.DEFAULT_DENY)
    key = PairKey(
        subject=end(subject),
        peer=end(peer),
        direction=direction,
        protocol=protocol,
        port=port,
        verdict=verdict,
        reason=given.name.lower(),
        service=service,
        policies=policies,
    )
    start = hour * HOUR_NS
    return Pair(
        cluster="c",
        hour=hour,
        key=key,
        verdicts=connections,
        packets=connections,
        first_ns=start + 1,
        last_ns=start + HOUR_NS - 1,
        examples=("r/1",),
        segment="0-0",
    )
