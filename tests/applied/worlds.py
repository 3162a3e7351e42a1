"""Random clusters of the property tests, whose pods, nodes and Services have addresses that really exist."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from enrich.history.change import Change
from enrich.model import Node, Owner, Pod, Protocol, Service
from enrich.policy.matching import PolicyView
from tests.enrich.history.random_changes import random_changes, real
from tests.kernel.rig import NODE, NODE_IPS
from tests.probe.policy.random_clusters import EXTERNALS, MAKERS, World

LOCAL: Final = {f"p{number}": (f"10.0.0.{number + 8}", f"fd00::{number + 8:x}") for number in range(4)}
"""The addresses of the pods whose policy is enforced. Their veth pairs stay, whatever pods the clusters have there."""
REMOTE: Final = {f"p{number}": (f"10.0.0.{number - 2}", f"fd00::{number - 2:x}") for number in (4, 5)}
"""Pods of another node, inside of what random policies name as blocks."""
NODES: Final = {"n2": ("192.168.0.1", "fd01::2"), "n3": ("192.168.0.2", "fd01::3")}
POD_RANGES: Final = ("10.0.0.0/28", "fd00::/120")
VIPS: Final = (("10.96.0.1", "fd96::1"), ("10.96.0.2", "fd96::2"))
SERVICE_PORT: Final = 80
_OWNERS: Final = (None, Owner("Deployment", "d0"), Owner("Deployment", "d0"), Owner("StatefulSet", "s1"))
_TARGET_PORTS: Final = (79, 80, 81, 443)


@dataclass(frozen=True)
class Backend:
    """What a Service's virtual address leads to, by TCP."""

    service: Service
    pod: str
    """The name of a pod."""
    port: int


@dataclass(frozen=True)
class Case:
    """A cluster, a change of its policies, and the cluster that has the change."""

    before: PolicyView
    change: Change
    after: PolicyView
    backends: tuple[Backend, ...]
    seed: int
    """Chooses the traffic."""

    @property
    def local(self) -> list[Pod]:
        """The pods whose policy is enforced."""
        return [pod for pod in self.before.pods.values() if pod.node == NODE]


def _placed(pod: Pod, owner: Owner | None, uid: str) -> Pod:
    """Return the pod with addresses that exist, and as it is while its packets pass."""
    if pod.name in LOCAL:
        ips, node, host = LOCAL[pod.name], NODE, False
    else:
        host = pod.host_network
        ips, node = (NODES["n2"] if host else REMOTE[pod.name]), "n2"
    return msgspec.structs.replace(
        pod, ips=ips, node=node, host_network=host, terminated=False, owner=owner, uid=f"{uid}-{pod.name}"
    )


def _nodes(found: list[Node]) -> list[Node]:
    """Return the nodes with the labels of random ones."""
    addresses = {NODE: NODE_IPS, **NODES}
    return [
        Node(name, f"uid-{name}", one.labels, addresses[name], pod_cidrs=POD_RANGES)
        for name, one in zip(addresses, found, strict=True)
    ]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a cluster and a change of its policies."""
    slots = {
        slot: draw(maker) for slot, maker in MAKERS.items() if slot[:3] in ("pod", "nod") or draw(st.integers(0, 4))
    }
    uid = secrets.token_hex(6)  # another one each time: by it the kernel's endpoint has its number, and its connections
    made: dict[str, Any] = {}
    for slot, one in slots.items():
        made[slot] = _placed(one, draw(st.sampled_from(_OWNERS)), uid) if isinstance(one, Pod) else one
    nodes = _nodes([made.pop(slot) for slot in sorted(made) if isinstance(made[slot], Node)])
    for node in nodes:
        made[f"node {node.name}"] = node
    view = World(made).view()
    view = PolicyView(view.pods, view.namespaces, view.nodes, view.policies, view.cluster_policies, NODE)
    change = draw(random_changes(view))
    after = real(change, view)
    after = PolicyView(after.pods, after.namespaces, after.nodes, after.policies, after.cluster_policies, NODE)
    pods = sorted(pod.name for pod in view.pods.values() if not pod.host_network)
    backends = tuple(
        Backend(
            Service("a", f"s{number}", f"{uid}-s{number}", ips, ports=((int(Protocol.TCP), SERVICE_PORT),)),
            draw(st.sampled_from(pods)),
            draw(st.sampled_from(_TARGET_PORTS)),
        )
        for number, ips in enumerate(VIPS)
    )
    return Case(view, change, after, backends, draw(st.integers(0, 1 << 30)))


def versioned(view: PolicyView) -> list[Any]:
    """Return the objects of a cluster that the journal keeps, besides profiles."""
    return [
        *view.namespaces.values(), *view.nodes.values(), *view.policies.values(), *view.cluster_policies.values()
    ]  # fmt: skip


def names_of(view: PolicyView) -> dict[str, tuple[str, ...]]:
    """Return the ends between which packets are sent, with their addresses. A pod of its node's network is not one."""
    hosts = {pod.name for pod in view.pods.values() if pod.host_network}
    pods = {name: ips for name, ips in {**LOCAL, **REMOTE}.items() if name not in hosts}
    return {**pods, **NODES, "node": NODE_IPS, "outside": EXTERNALS}
