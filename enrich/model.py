"""The cluster's objects, cut down to what policy and enrichment use. Values: frozen, hashable, slim.

``enrich.parse.objects`` makes them from the API's JSON and says what is wrong with what it refuses. A pod is a Struct
of
msgspec, all else a dataclass: there are a hundred thousand pods, and a Struct is made in a twentieth of the time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

Labels = Mapping[str, str]
"""Label key to value. Treat as immutable; shared between objects with equal labels."""


class Name(NamedTuple):
    """What names an object within its kind. ``namespace`` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Protocol(enum.IntEnum):
    """The transport protocols that policies name, by IANA number."""

    TCP = 6
    UDP = 17
    SCTP = 132


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller in ``metadata.ownerReferences``."""

    kind: str
    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A containerPort that has a name (``spec.containers[].ports[]``)."""

    name: str
    port: int
    protocol: Protocol


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A pod. ``ips`` are canonical text, at most one a family, empty until assigned."""

    namespace: str
    name: str
    uid: str
    labels: Labels
    ips: tuple[str, ...] = ()
    node: str = ""
    host_network: bool = False
    terminated: bool = False
    """Phase Succeeded or Failed: holds no IP any more."""
    ports: tuple[NamedPort, ...] = ()
    owner: Owner | None = None
    started_ns: int = 0
    """Wall clock; from when it has its IPs (PodReadyToStartContainers, else startTime); 0: not known."""
    acknowledged_ns: int = 0
    """Wall clock; it had no IP before (startTime); 0: not known."""

    def __hash__(self) -> int:
        return hash(self.uid)

    @property
    def key(self) -> Name:
        return Name(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace; its labels always hold ``kubernetes.io/metadata.name``."""

    name: str
    uid: str
    labels: Labels = field(hash=False)
    audit: bool = False
    """``kubeweir.io/mode: audit``: every NetworkPolicy in it is audited. A ClusterNetworkPolicy is not: it is the
    cluster administrators', and who may annotate a namespace must not switch off what they deny there."""

    @property
    def key(self) -> Name:
        return Name("", self.name)


@dataclass(frozen=True, slots=True)
class Node:
    """A node. ``zone`` is its label ``topology.kubernetes.io/zone``."""

    name: str
    uid: str
    labels: Labels = field(hash=False)
    ips: tuple[str, ...] = ()
    zone: str = ""

    @property
    def key(self) -> Name:
        return Name("", self.name)


@dataclass(frozen=True, slots=True)
class Service:
    """A Service by the addresses that clients dial."""

    namespace: str
    name: str
    uid: str
    cluster_ips: tuple[str, ...] = ()
    """``spec.clusterIPs``."""
    outer_ips: tuple[str, ...] = ()
    """``spec.externalIPs`` and ``status.loadBalancer.ingress[].ip``."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.cluster_ips + self.outer_ips

    @property
    def key(self) -> Name:
        return Name(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Addresses behind a Service, and no pods of this cluster: an EndpointSlice that somebody wrote."""

    namespace: str
    name: str
    uid: str
    service: str = ""
    addresses: tuple[str, ...] = ()

    @property
    def key(self) -> Name:
        return Name(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Workload:
    """What owns pods and is owned in turn: a ReplicaSet (by a Deployment) or a Job (by a CronJob)."""

    kind: str
    namespace: str
    name: str
    uid: str
    owner: Owner | None = None

    @property
    def key(self) -> Name:
        return Name(self.namespace, f"{self.kind}/{self.name}")


class Operator(enum.Enum):
    """``LabelSelectorRequirement.operator``."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One of ``matchExpressions``."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """A LabelSelector; ``matchLabels`` are requirements ``In`` of one value. No requirement matches everything."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class IPBlock:
    """``cidr`` without the addresses of ``excepts``; canonical text, host bits masked off."""

    cidr: str
    excepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer of a rule: ``ip_block``, or ``nodes`` (of a ClusterNetworkPolicy only), or one or both selectors of pods.

    A ClusterNetworkPolicy's ``networks`` are a peer a CIDR; its selectors of pods always have ``namespaces``.
    """

    namespaces: Selector | None = None
    pods: Selector | None = None
    ip_block: IPBlock | None = None
    nodes: Selector | None = None


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """A NetworkPolicyPort. ``port`` None: every port of the protocol; text: a containerPort's name."""

    protocol: Protocol
    port: int | str | None = None
    end_port: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """An ingress or egress rule. No peers: from or to anything. No ports: everything, every protocol."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """A networking.k8s.io/v1 NetworkPolicy. ``ingress``/``egress`` None: does not isolate in that direction."""

    namespace: str
    name: str
    uid: str
    pods: Selector
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    audit: bool = False
    """Its own annotation ``kubeweir.io/mode: audit``; its namespace's counts as well."""

    @property
    def key(self) -> Name:
        return Name(self.namespace, self.name)


class Tier(enum.IntEnum):
    """The tiers of ClusterNetworkPolicy; that of NetworkPolicy lies between."""

    ADMIN = 0
    BASELINE = 1


class Action(enum.Enum):
    """What a ClusterNetworkPolicy's rule does with the traffic that it matches."""

    ACCEPT = "Accept"
    DENY = "Deny"
    PASS = "Pass"  # noqa: S105 - a word of the API


@dataclass(frozen=True, slots=True)
class ClusterRule:
    """An ingress or egress rule of a ClusterNetworkPolicy. No peers: matches nothing. No ports: every protocol."""

    action: Action
    peers: tuple[Peer, ...]
    ports: tuple[PolicyPort, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class ClusterNetworkPolicy:
    """A policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy. Selecting a pod does not isolate it."""

    name: str
    uid: str
    tier: Tier
    priority: int
    """0 to 1000 within the tier, the lower one first."""
    namespaces: Selector
    """The subject's namespaces."""
    pods: Selector
    """The subject's pods in them; ``subject.namespaces`` means all of them."""
    ingress: tuple[ClusterRule, ...] = ()
    egress: tuple[ClusterRule, ...] = ()
    audit: bool = False
    """Its annotation ``kubeweir.io/mode: audit``."""

    @property
    def key(self) -> Name:
        return Name("", self.name)


Policy = NetworkPolicy | ClusterNetworkPolicy
"""A policy of any kind that is enforced."""
POLICY_API_VERSIONS: Final[Mapping[type[Policy], str]] = {
    NetworkPolicy: "networking.k8s.io/v1",
    ClusterNetworkPolicy: "policy.networking.k8s.io/v1alpha2",
}
"""The kinds of policy that are enforced, each with its API version: the one list of them."""
Object = Pod | Namespace | Node | Service | EndpointSlice | Workload | NetworkPolicy | ClusterNetworkPolicy
