"""The cluster's objects, reduced to the fields that policy and records use. All of them are frozen and hashable.

:mod:`enrich.parse.objects` makes them from the API's JSON, and says what is wrong with an object that it refuses. A pod
is a msgspec Struct and everything else a dataclass, because a cluster may have a hundred thousand pods and a Struct is
made in a twentieth of the time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from enrich.label_selector import Selector
from enrich.name import Name as Name  # noqa: PLC0414 - modules import it from here
from enrich.network_logging import NetworkLogging

Labels = Mapping[str, str]
"""Label keys and values. Objects with equal labels share one mapping, so never change it."""


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
    """A container port that has a name (``spec.containers[].ports[]``)."""

    name: str
    port: int
    protocol: Protocol


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A pod. ``ips`` are canonical text, at most one for each address family; empty until they are assigned."""

    namespace: str
    name: str
    uid: str
    labels: Labels
    ips: tuple[str, ...] = ()
    node: str = ""
    host_network: bool = False
    terminated: bool = False
    """The phase is Succeeded or Failed: the pod no longer has its IPs."""
    ports: tuple[NamedPort, ...] = ()
    owner: Owner | None = None
    started_ns: int = 0
    """Wall clock: when the pod surely had its IPs (PodReadyToStartContainers, else startTime); 0: not known."""
    acknowledged_ns: int = 0
    """Wall clock: when the kubelet acknowledged the pod, which had no IP before (startTime); 0: not known."""
    static_uid: str = ""
    """The UID by which kubelet and CNI know the static pod that this is the mirror of; empty for all other pods."""

    def __hash__(self) -> int:
        return hash(self.uid)

    @property
    def key(self) -> Name:
        return Name(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace. Its labels always include ``kubernetes.io/metadata.name``."""

    name: str
    uid: str
    labels: Labels = field(hash=False)
    audit: bool = False
    """Annotation ``kubeweir.io/mode: audit``: every NetworkPolicy in the namespace is audited. ClusterNetworkPolicies
    are not: somebody who may annotate a namespace must not be able to switch off what administrators deny there."""
    deny_logging: str | None = None
    """Annotation ``policy.network.gke.io/enable-deny-logging``."""

    @property
    def key(self) -> Name:
        return Name("", self.name)


@dataclass(frozen=True, slots=True)
class Node:
    """A node. ``zone`` is the value of its label ``topology.kubernetes.io/zone``."""

    name: str
    uid: str
    labels: Labels = field(hash=False)
    ips: tuple[str, ...] = ()
    zone: str = ""
    pod_cidrs: tuple[str, ...] = ()
    """The ranges of its pods' addresses (``spec.podCIDRs``). A CNI plugin need not keep to them."""
    tunnel_ips: tuple[str, ...] = ()
    reserved_ips: tuple[str, ...] = ()
    """Addresses that name the node in records, and that no policy means: :mod:`enrich.parse.node_addresses`."""

    @property
    def all_ips(self) -> tuple[str, ...]:
        """All addresses that name the node in records."""
        return (*self.ips, *self.tunnel_ips, *self.reserved_ips)

    @property
    def key(self) -> Name:
        return Name("", self.name)


@dataclass(frozen=True, slots=True)
class Service:
    """A Service and the addresses that its clients dial. ``cluster_ips`` are ``spec.clusterIPs``."""

    namespace: str
    name: str
    uid: str
    cluster_ips: tuple[str, ...] = ()
    outer_ips: tuple[str, ...] = ()
    """``spec.externalIPs`` and ``status.loadBalancer.ingress[].ip``."""
    ports: tuple[tuple[int, int], ...] = ()
    node_ports: tuple[tuple[int, int], ...] = ()
    """Protocol and port, by which Services share their outer addresses, and those of nodes."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.cluster_ips + self.outer_ips

    @property
    def key(self) -> Name:
        return Name(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """An EndpointSlice that a person or a controller of theirs wrote: addresses behind a Service that are not pods."""

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
    """An object that owns pods and may be owned in turn: a ReplicaSet (by a Deployment) or a Job (by a CronJob)."""

    kind: str
    namespace: str
    name: str
    uid: str
    owner: Owner | None = None

    @property
    def key(self) -> Name:
        return Name(self.namespace, f"{self.kind}/{self.name}")


@dataclass(frozen=True, slots=True)
class IPBlock:
    """The addresses of ``cidr`` without those of ``excepts``, both as canonical text with the host bits masked off."""

    cidr: str
    excepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer of a rule: ``ip_block``, or ``nodes`` (in a ClusterNetworkPolicy only), or one or both pod selectors. Each
    CIDR of a ClusterNetworkPolicy's ``networks`` is a peer, and its pod selectors always have ``namespaces``."""

    namespaces: Selector | None = None
    pods: Selector | None = None
    ip_block: IPBlock | None = None
    nodes: Selector | None = None


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """A NetworkPolicyPort. ``port`` None means every port of the protocol, and text the name of a container port."""

    protocol: Protocol
    port: int | str | None = None
    end_port: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """An ingress or egress rule. Without peers it matches any peer; without ports, every port of every protocol."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """A networking.k8s.io/v1 NetworkPolicy. It does not isolate in a direction whose rules are None."""

    namespace: str
    name: str
    uid: str
    pods: Selector
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    audit: bool = False
    """Its own annotation ``kubeweir.io/mode: audit``. That of its namespace audits it, too."""
    logging: str | None = field(default=None, repr=False)
    """Annotation ``policy.network.gke.io/enable-logging``. It is not part of what is enforced (``probe.policy``)."""

    @property
    def key(self) -> Name:
        return Name(self.namespace, self.name)


class Tier(enum.IntEnum):
    """The tiers of ClusterNetworkPolicy. NetworkPolicies come between the two."""

    ADMIN = 0
    BASELINE = 1


class Action(enum.Enum):
    """What a rule of a ClusterNetworkPolicy does with the traffic that it matches."""

    ACCEPT = "Accept"
    DENY = "Deny"
    PASS = "Pass"  # noqa: S105 - a word of the API


@dataclass(frozen=True, slots=True)
class ClusterRule:
    """A rule of a ClusterNetworkPolicy. Without peers it matches nothing; without ports, every protocol."""

    action: Action
    peers: tuple[Peer, ...]
    ports: tuple[PolicyPort, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class ClusterNetworkPolicy:
    """A policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy. It does not isolate the pods that it selects."""

    name: str
    uid: str
    tier: Tier
    priority: int
    """0 to 1000; within a tier the lower number decides first."""
    namespaces: Selector
    """Selects the namespaces of the subject."""
    pods: Selector
    """Selects the subject's pods in those namespaces; all of them if the policy says ``subject.namespaces``."""
    ingress: tuple[ClusterRule, ...] = ()
    egress: tuple[ClusterRule, ...] = ()
    audit: bool = False
    """Its annotation ``kubeweir.io/mode: audit``."""
    logging: str | None = field(default=None, repr=False)
    """As of a NetworkPolicy."""

    @property
    def key(self) -> Name:
        return Name("", self.name)


@dataclass(frozen=True, slots=True)
class AdminNetworkPolicy(ClusterNetworkPolicy):
    """A policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy: a policy of the Admin tier."""


@dataclass(frozen=True, slots=True)
class BaselineAdminNetworkPolicy(ClusterNetworkPolicy):
    """A policy.networking.k8s.io/v1alpha1 BaselineAdminNetworkPolicy: the last policy of the Baseline tier."""


Policy = NetworkPolicy | ClusterNetworkPolicy
"""A policy of any kind that is enforced."""
TIERED_KINDS: Final = (ClusterNetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy)
"""The kinds of the Admin and the Baseline tier, in the order in which they are asked if priorities are equal."""
POLICY_API_VERSIONS: Final[Mapping[type[Policy], str]] = {
    NetworkPolicy: "networking.k8s.io/v1",
    ClusterNetworkPolicy: "policy.networking.k8s.io/v1alpha2",
    AdminNetworkPolicy: "policy.networking.k8s.io/v1alpha1",
    BaselineAdminNetworkPolicy: "policy.networking.k8s.io/v1alpha1",
}
"""The kinds of policy that are enforced, each with its API version: the one list of them."""
Object = (
    Pod | Namespace | Node | Service | EndpointSlice | Workload | NetworkPolicy | ClusterNetworkPolicy | NetworkLogging
)
