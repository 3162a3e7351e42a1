"""Makes the cluster that a repository would deliver into: pods that stand for what runs them, and namespaces that no
file has.

Files lack the addresses of pods. So these are invented, from a range that is set aside for benchmarks (RFC 2544), which
policies have no reason to name. What depends on an address is not known, and code that uses such a pod must say so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from enrich.label_selector import NAMESPACE_LABEL
from enrich.model import (
    ClusterNetworkPolicy,
    Name,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Owner,
    Pod,
)
from enrich.parse.pod_template import PodTemplate
from enrich.policy.matching import PolicyView
from enrich.sources.repository import Key, Repository

INVENTED: Final = ipaddress.ip_network("198.18.0.0/15")
"""Where invented addresses are."""
ALWAYS_THERE: Final = ("default", "kube-node-lease", "kube-public", "kube-system")
"""The namespaces that the API server makes in every cluster."""


@dataclass(slots=True)
class Delivered:
    """The cluster that a repository would deliver into."""

    pods: dict[Name, Pod] = field(default_factory=dict)
    sources: dict[Name, Key] = field(default_factory=dict)
    """The object in a file that has or runs each pod."""
    ports: dict[Name, tuple[NamedPort, ...]] = field(default_factory=dict)
    """All ports of each pod's containers; the name of one that has none is empty."""
    invented: set[Name] = field(default_factory=set)
    """The pods whose addresses are invented."""
    namespaces: dict[Name, Namespace] = field(default_factory=dict)
    assumed: set[str] = field(default_factory=set)
    """The namespaces that no file has: only their names are known."""
    objects: list[Object] = field(default_factory=list)
    """All objects of the cluster, for an index."""

    def view(self) -> PolicyView:
        """Return what policies depend on."""
        nodes = {one.key: one for one in self.objects if isinstance(one, Node)}
        policies = {one.key: one for one in self.objects if isinstance(one, NetworkPolicy)}
        tiered = [one for one in self.objects if isinstance(one, ClusterNetworkPolicy)]
        cluster_policies = {Name(type(one).__name__, one.name): one for one in tiered}
        return PolicyView(self.pods, self.namespaces, nodes, policies, cluster_policies)

    def stands_for(self, pod: Name) -> str:
        """Return what a pod of the cluster stands for, as ``Deployment shop/web``."""
        kind, namespace, name = self.sources[pod]
        return f"{kind} {namespace}/{name}"


def deliver(repository: Repository) -> Delivered:
    """Return the cluster."""
    made = Delivered()
    for key, one in repository.objects.items():
        if isinstance(one, Pod):
            _add(made, key, one, repository.ports[key])
        elif isinstance(one, Namespace):
            made.namespaces[one.key] = one
    running = _owners(repository)
    for key, template in repository.templates.items():
        if key not in running:
            _add(made, key, _stand_in(made, template), template.ports)
    _invent_addresses(made)
    _assume_namespaces(made, repository)
    rest = (one for one in repository.objects.values() if not isinstance(one, Pod | Namespace))
    made.objects = [*made.pods.values(), *made.namespaces.values(), *rest]
    return made


def _add(made: Delivered, key: Key, pod: Pod, ports: tuple[NamedPort, ...]) -> None:
    made.pods[pod.key], made.sources[pod.key], made.ports[pod.key] = pod, key, ports


def _owners(repository: Repository) -> set[Key]:
    """Return what owns an object that the repository has, too: that one has or runs its pods."""
    owned = [(one.namespace, one.owner) for one in repository.objects.values() if isinstance(one, Pod)]
    owned += [(one.name.namespace, one.owner) for one in repository.templates.values()]
    return {(owner.kind, namespace, owner.name) for namespace, owner in owned if owner is not None}


def _stand_in(made: Delivered, template: PodTemplate) -> Pod:
    """Return a pod that stands for all pods of a template. Its name is that of what runs it; that of a StatefulSet has
    the number of its first pod."""
    namespace, workload = template.name
    name = f"{workload}-0" if template.kind == "StatefulSet" else workload
    while Name(namespace, name) in made.pods:
        name = f"{name}-{template.kind.lower()}"
    return Pod(
        namespace,
        name,
        uid=f"{template.kind}/{namespace}/{workload}",
        labels=template.labels,
        host_network=template.host_network,
        ports=tuple(port for port in template.ports if port.name),
        owner=Owner(template.kind, workload),
    )


def _invent_addresses(made: Delivered) -> None:
    free = _free_addresses(made)
    for name, pod in made.pods.items():
        if not pod.ips and not pod.host_network and not pod.terminated:
            ip = next(free, None)
            made.pods[name] = msgspec.structs.replace(pod, ips=(ip,) if ip else ())
            made.invented.add(name)


def _free_addresses(made: Delivered) -> Iterator[str]:
    taken = {ip for pod in made.pods.values() for ip in pod.ips}
    return (ip for ip in map(str, INVENTED.hosts()) if ip not in taken)


def _assume_namespaces(made: Delivered, repository: Repository) -> None:
    for name in (*ALWAYS_THERE, *sorted({namespace for _, namespace, _ in repository.written if namespace})):
        if Name("", name) not in made.namespaces:
            made.namespaces[Name("", name)] = Namespace(name, f"Namespace/{name}", {NAMESPACE_LABEL: name})
            made.assumed.add(name)
