"""Random clusters and policies for hypothesis: few labels, many overlaps; and random changes of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from enrich.model import ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, Object, Pod, Protocol
from enrich.parse.objects import parse
from enrich.policy.decide import decide
from enrich.policy.matching import Direction, Endpoint, PolicyView, endpoint_at
from enrich.wire.batch import PolicyRef, Reason
from tests.conformance.predecessors import as_predecessor, has_predecessor

OWN = "n0"
NAMESPACES = ("a", "b")
PORTS = (0, 1, 79, 80, 81, 443, 1024, 65535)
NAMES = ("web", "dns")
CIDRS = {
    4: ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/29", "10.0.0.3/31", "10.0.0.2/32", "192.168.0.0/30", "203.0.113.5/24"],
    6: ["::/0", "fd00::/8", "fd00::/125", "fd00::2/127", "fd00::3/128", "2001:db8::/32", "::ffff:0:0/95"],
}
EXTERNALS = ("203.0.113.9", "8.8.8.8", "2001:db8::9", "2620::1")

labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)


@st.composite
def requirements(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
    made: dict[str, Any] = {"key": draw(st.sampled_from("xy")), "operator": operator}
    if operator in ("In", "NotIn"):
        made["values"] = draw(st.lists(st.sampled_from("12"), min_size=1, max_size=2, unique=True))
    return made


selectors = st.one_of(
    st.just({}),
    labels.map(lambda found: {"matchLabels": found}),
    st.lists(requirements(), max_size=2).map(lambda found: {"matchExpressions": found}),
)


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:

    cidr = draw(st.sampled_from(CIDRS[draw(st.sampled_from([4, 6]))]))
    outer = ipaddress.ip_network(cidr, strict=False)
    inside = [
        one
        for family in CIDRS.values()
        for one in family
        if (found := ipaddress.ip_network(one, strict=False)).version == outer.version
        and found != outer
        and found.subnet_of(outer)  # type: ignore[arg-type]  # one version
    ]
    holes = draw(st.lists(st.sampled_from(inside), max_size=2, unique=True)) if inside else []
    return {"cidr": cidr, "except": holes}


SHARED_LISTS = (
    ["10.0.0.0/29", "203.0.113.0/24", "fd00::/125", "2001:db8::/32"],
    ["10.0.0.0/8", "10.0.0.2/32", "192.168.0.0/30", "fd00::/8", "203.0.113.9/32"],
)
"""CIDR lists that several rules have, of both families, nested and with pods and nodes inside."""


@st.composite
def cidr_lists(draw: st.DrawFn) -> list[str]:
    """Draw a shared list as it is, without one of its blocks, or with one more."""
    blocks = list(draw(st.sampled_from(SHARED_LISTS)))
    match draw(st.integers(0, 3)):
        case 0:
            del blocks[draw(st.integers(0, len(blocks) - 1))]
        case 1:
            blocks.append(draw(st.sampled_from(["8.8.8.0/24", "10.0.0.3/32", "fd00::2/127", "2620::/16"])))
    return blocks


@st.composite
def np_peers(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return {"ipBlock": draw(blocks())}
    made = {}
    if kind in (1, 3):
        made["podSelector"] = draw(selectors)
    if kind in (2, 3):
        made["namespaceSelector"] = draw(selectors)
    return made


@st.composite
def np_ports(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"protocol": draw(st.sampled_from(["TCP", "UDP", "SCTP"]))}
    kind = draw(st.integers(0, 3))
    if kind == 1:
        made["port"] = draw(st.sampled_from(NAMES))
    if kind >= 2:
        made["port"] = draw(st.sampled_from(PORTS[1:]))
    if kind == 3:
        made["endPort"] = draw(st.sampled_from([port for port in PORTS if port >= made["port"]]))
    return made


@st.composite
def block_peers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw the peers of a rule that names a CIDR list, perhaps with an exception and with another peer."""
    peers: list[dict[str, Any]] = [{"ipBlock": {"cidr": cidr}} for cidr in draw(cidr_lists())]
    if draw(st.booleans()):
        peers.append({"ipBlock": {"cidr": "203.0.112.0/20", "except": ["203.0.113.0/28"]}})
    return [*peers, *draw(st.lists(np_peers(), max_size=1))]


def _np_rules(peers: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    few = st.lists(np_peers(), max_size=2)
    rule = st.fixed_dictionaries({peers: st.one_of(few, few, block_peers()), "ports": st.lists(np_ports(), max_size=2)})
    return st.lists(rule, max_size=2)


modes = st.sampled_from([{}, {}, {}, {"kubeweir.io/mode": "audit"}])


@st.composite
def network_policies(draw: st.DrawFn, name: str) -> Object:
    namespace = draw(st.sampled_from(NAMESPACES))
    spec = {
        "podSelector": draw(selectors),
        "policyTypes": draw(st.sampled_from([[], ["Ingress"], ["Egress"], ["Ingress", "Egress"]])),
        "ingress": draw(_np_rules("from")),
        "egress": draw(_np_rules("to")),
    }
    return _object(
        "networking.k8s.io/v1", "NetworkPolicy", name, namespace=namespace, annotations=draw(modes), spec=spec
    )


@st.composite
def cnp_peers(draw: st.DrawFn, *, egress: bool, named: bool) -> dict[str, Any]:
    kind = draw(st.sampled_from(["namespaces", "pods", *(["nodes", "networks"] if egress and not named else [])]))
    if kind == "pods":
        return {"pods": {"namespaceSelector": draw(selectors), "podSelector": draw(selectors)}}
    if kind == "networks":
        every = [str(ipaddress.ip_network(cidr, strict=False)) for family in CIDRS.values() for cidr in family]
        few = st.lists(st.sampled_from(every), min_size=1, max_size=2, unique=True)
        return {"networks": draw(st.one_of(few, cidr_lists()))}
    return {kind: draw(selectors)}


@st.composite
def cnp_protocols(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.integers(0, 3)) == 0:
        return {"destinationNamedPort": draw(st.sampled_from(NAMES))}
    first = draw(st.sampled_from(PORTS[1:-1]))
    port: dict[str, Any] = {"number": first}
    if draw(st.booleans()):
        port = {"range": {"start": first, "end": draw(st.sampled_from([p for p in PORTS if p > first]))}}
    return {draw(st.sampled_from(["tcp", "udp", "sctp"])): {"destinationPort": port}}


@st.composite
def cnp_rules(draw: st.DrawFn, *, egress: bool) -> dict[str, Any]:
    protocols = draw(st.lists(cnp_protocols(), max_size=2))
    named = any("destinationNamedPort" in one for one in protocols)
    peers = draw(st.lists(cnp_peers(egress=egress, named=named), min_size=1, max_size=2))
    made = {"action": draw(st.sampled_from(["Accept", "Deny", "Pass"])), "to" if egress else "from": peers}
    return {**made, "protocols": protocols} if protocols else made


@st.composite
def cluster_policies(draw: st.DrawFn, name: str) -> Object:
    pods = {"pods": {"namespaceSelector": draw(selectors), "podSelector": draw(selectors)}}
    spec = {
        "tier": draw(st.sampled_from(["Admin", "Baseline"])),
        "priority": draw(st.integers(0, 2)),
        "subject": draw(st.sampled_from([pods, {"namespaces": draw(selectors)}])),
        "ingress": draw(st.lists(cnp_rules(egress=False), max_size=2)),
        "egress": draw(st.lists(cnp_rules(egress=True), max_size=2)),
    }
    policy = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name, "annotations": draw(modes)}, "spec": spec,
    }  # fmt: skip
    if draw(st.booleans()) and has_predecessor(policy):
        policy = as_predecessor(policy, baseline_name=name)
    # Read as from a server: a cluster has one BaselineAdminNetworkPolicy, and here there may be several.
    made = parse(policy, [])
    assert made is not None
    return made


@st.composite
def namespaces(draw: st.DrawFn, name: str) -> Object:
    return _object("v1", "Namespace", name, labels=draw(labels), annotations=draw(modes))


@st.composite
def pods(draw: st.DrawFn, number: int) -> Object:
    """Number 0 and 1 are local; addresses 1 to 6 of either family, so that two may claim one."""
    last = draw(st.integers(1, 6))
    ports = [
        {"name": name, "containerPort": draw(st.sampled_from(PORTS[1:])),
         "protocol": draw(st.sampled_from(["TCP", "UDP"]))}
        for name in draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True))
    ]  # fmt: skip
    host = number > 1 and draw(st.integers(0, 5)) == 0
    ips = ["192.168.0.1"] if host else [f"10.0.0.{last}", f"fd00::{last:x}"]
    if number < 2:
        ips = [f"10.0.0.{number + 8}", f"fd00::{number + 8:x}"]
    return _object(
        "v1", "Pod", f"p{number}", namespace=draw(st.sampled_from(NAMESPACES)), labels=draw(labels),
        spec={"nodeName": OWN if number < 2 else "n1", "hostNetwork": host, "containers": [{"ports": ports}]},
        status={"podIPs": [{"ip": ip} for ip in ips], "phase": "Running" if number < 2 else draw(
            st.sampled_from(["Running"] * 4 + ["Failed"]))},
    )  # fmt: skip


@st.composite
def nodes(draw: st.DrawFn, number: int) -> Object:
    ips = [f"192.168.0.{number}", f"fd01::{number + 1:x}"]
    addresses = [{"type": "InternalIP", "address": ip} for ip in (*ips, ips[0])]
    return _object("v1", "Node", f"n{number}", labels=draw(labels), status={"addresses": addresses})


def _object(version: str, kind: str, name: str, **rest: Any) -> Object:
    named: tuple[str, ...] = ("namespace", "labels", "annotations")
    meta = {"name": name, **{key: rest.pop(key) for key in named if key in rest}}
    made = parse({"apiVersion": version, "kind": kind, "metadata": meta, **rest})
    assert made is not None
    return made


@dataclass(frozen=True)
class World:
    """The objects by slot. A change puts another object into a slot or empties it."""

    slots: dict[str, Object]

    def view(self) -> PolicyView:
        def of(kind: type) -> dict[Any, Any]:
            return {made.key: made for made in self.slots.values() if isinstance(made, kind)}

        return PolicyView(of(Pod), of(Namespace), of(Node), of(NetworkPolicy), of(ClusterNetworkPolicy), OWN)

    def changed(self, slot: str, made: Object | None) -> World:
        rest = {key: value for key, value in self.slots.items() if key != slot}
        return replace(self, slots=rest if made is None else {**rest, slot: made})


MAKERS: dict[str, st.SearchStrategy[Object]] = {
    **{f"namespace {name}": namespaces(name) for name in NAMESPACES},
    **{f"node {number}": nodes(number) for number in range(3)},
    **{f"pod {number}": pods(number) for number in range(6)},
    **{f"policy {number}": network_policies(f"np{number}") for number in range(4)},
    **{f"cluster policy {number}": cluster_policies(f"cnp{number}") for number in range(4)},
}
FIXED = ("node 0", "pod 0", "pod 1")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    slots = {slot: draw(maker) for slot, maker in MAKERS.items() if slot in FIXED or draw(st.integers(0, 4))}
    return World(slots)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, Object | None]:
    slot = draw(st.sampled_from(sorted(MAKERS)))
    gone = slot not in FIXED and draw(st.integers(0, 3)) == 0
    return slot, None if gone else draw(MAKERS[slot])


def subjects(view: PolicyView) -> list[Pod]:
    return [pod for pod in view.pods.values() if pod.node == OWN]


Asked = tuple[Pod, Direction, str, Protocol, int]
"""Local pod, direction, the peer's address, protocol, port."""


def questions(view: PolicyView) -> Iterator[Asked]:
    """Yield every local pod in both directions with every address, at all ports at which outcomes can change."""
    ips = {ip for pod in view.pods.values() for ip in pod.ips} | {ip for node in view.nodes.values() for ip in node.ips}
    for pod in subjects(view):
        for direction in Direction:
            for ip in sorted(ips | set(EXTERNALS)):
                for protocol in Protocol:
                    for port in PORTS:
                        yield pod, direction, ip, protocol, port


def expected(view: PolicyView, query: Asked) -> tuple[int, int, tuple[PolicyRef, ...]] | None:
    """Return the engine's decision, or None if the kernel decides without maps (to itself, or from the own node)."""
    pod, direction, ip, protocol, port = query
    peer: Endpoint = endpoint_at(view, ip)
    decision = decide(view, pod, direction, peer, protocol, port)
    if decision.reason is Reason.SELF or (decision.reason is Reason.NODE and direction is Direction.INGRESS):
        return None
    return decision.verdict, decision.reason, decision.policies
