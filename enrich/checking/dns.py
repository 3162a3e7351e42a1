"""Finds pods whose egress is closed to DNS, by asking the reference of policy semantics about it.

Pods ask the servers of kube-system, a cache on their node, or a server outside the cluster. A cluster's namespaces may
have labels that no file has; so a rule that names port 53 and a namespaceSelector or an ipBlock is taken to mean DNS,
and so is one of all ports that names the servers' labels, or a block that may be the cluster's.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from enrich.checking.finding import CLOSED_WITHOUT_DNS, EGRESS_WITHOUT_DNS, Checked, Finding, key_of
from enrich.label_selector import Operator, Selector
from enrich.model import NamedPort, NetworkPolicy, Peer, Pod, PolicyPort, Protocol
from enrich.policy import selectors
from enrich.policy.decide import decide, is_audited, isolates
from enrich.policy.matching import Direction, Endpoint, port_matches

_PORT: Final = 53
_OPENSHIFT: Final = 5353
"""OpenShift's servers listen there, behind port 53 of their Service."""
_WIDE: Final = 1 << 16
"""A block of so many addresses may be that of a cluster's pods or Services, with the servers among them."""
_SERVER: Final = Pod(
    "kube-system",
    "kube-dns",
    uid="Pod/kube-system/kube-dns",
    labels={"k8s-app": "kube-dns"},
    ports=(NamedPort("dns", _PORT, Protocol.UDP), NamedPort("dns-tcp", _PORT, Protocol.TCP)),
)
"""The labels are those of kube-dns and of CoreDNS, which has taken them over."""
_NODE_CACHE: Final = "169.254.20.10"
"""NodeLocal DNSCache listens there."""
_PUBLIC: Final = "8.8.8.8"
_TODO: Final = (
    "allow it: {to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: "
    "{matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}"
)


def egress_without_dns(checked: Checked) -> Iterator[Finding]:
    """Yield a finding for each set of policies that isolates pods together."""
    found: dict[tuple[NetworkPolicy, ...], list[Pod]] = defaultdict(list)
    for pod in _subjects(checked):
        isolating = tuple(
            policy
            for policy in checked.views[pod.namespace].policies.values()
            if isolates(policy, pod, Direction.EGRESS) and not is_audited(checked.view, policy)
        )
        if isolating and not _resolves(checked, pod, isolating):
            found[isolating].append(pod)
    for policies, pods in found.items():
        yield _finding(checked, policies, pods)


def _subjects(checked: Checked) -> Iterator[Pod]:
    """Yield all pods, and for a namespace that has none in the files a pod for each of its policies."""
    for namespace in checked.views:
        if namespace not in checked.repository.unsure:
            yield from checked.by_namespace.get(namespace, ())
    for policy in checked.view.policies.values():
        if policy.namespace not in checked.by_namespace and policy.namespace not in checked.repository.unsure:
            yield Pod(policy.namespace, "", f"for {policy.key}", _example(policy.pods))


def _example(selector: Selector) -> dict[str, str]:
    """Return labels that a selector mostly matches."""
    return {
        one.key: one.values[0] if one.operator is Operator.IN else "x"
        for one in selector.requirements
        if one.operator in (Operator.IN, Operator.EXISTS)
    }


def _resolves(checked: Checked, pod: Pod, isolating: Iterable[NetworkPolicy]) -> bool:
    """Return whether a pod may ask any server of DNS."""
    servers = [Endpoint("", one) for one in checked.by_namespace.get("kube-system", ())] or [Endpoint("", _SERVER)]
    own = [Endpoint("", one) for one in checked.by_namespace.get(pod.namespace, ()) if _has_dns(checked, one)]
    addresses = [Endpoint(_NODE_CACHE), Endpoint(_PUBLIC)]
    for peer in (*servers, *own, *addresses):
        at = Endpoint(peer.ip or _ip(peer.pod), peer.pod)
        if decide(checked.views[pod.namespace], pod, Direction.EGRESS, at, Protocol.UDP, _PORT).allowed:
            return True
    return any(_means_dns(policy) for policy in isolating)


def _ip(pod: Pod | None) -> str:
    return pod.ips[0] if pod is not None and pod.ips else "198.19.255.253"


def _has_dns(checked: Checked, pod: Pod) -> bool:
    return any(one.port == _PORT for one in checked.delivered.ports.get(pod.key, ()))


def _means_dns(policy: NetworkPolicy) -> bool:
    """Return whether a rule may let pods ask servers of DNS that the files do not have."""
    return any(
        any(_may_be_servers(peer, is_named=any(map(_names_dns, rule.ports))) for peer in rule.peers)
        for rule in policy.egress or ()
        if not rule.ports or any(map(_matches_dns, rule.ports))
    )


def _may_be_servers(peer: Peer, *, is_named: bool) -> bool:
    """Return whether a peer may have the servers. ``is_named``: its rule names their port, so that it is about them,
    unless it is about pods of the policy's own namespace."""
    if peer.ip_block is not None:
        return is_named or ipaddress.ip_network(peer.ip_block.cidr).num_addresses >= _WIDE
    if peer.namespaces is None:
        return False
    return is_named or (peer.pods not in (None, Selector()) and selectors.matches(peer.pods, _SERVER.labels))


def _names_dns(port: PolicyPort) -> bool:
    return port.port is not None and _matches_dns(port)


def _matches_dns(port: PolicyPort) -> bool:
    """Return whether a port of a rule matches a port at which servers of DNS listen."""
    return any(port_matches(port, _SERVER, Protocol.UDP, one) for one in (_PORT, _OPENSHIFT))


def _finding(checked: Checked, policies: tuple[NetworkPolicy, ...], pods: list[Pod]) -> Finding:
    first = min(policies, key=lambda one: one.key)
    known = [pod for pod in pods if pod.key in checked.delivered.sources]
    named = checked.stands_for(known) or "the pods that it selects"
    also = [policy.name for policy in sorted(policies, key=lambda one: one.key)[1:]]
    beside = f" (with {', '.join(also[:3])}{' and more' if len(also) > 3 else ''})" if also else ""
    if any(policy.egress for policy in policies):
        text = f"egress of {named} is limited{beside}, and no rule allows 53/UDP, so no name can be resolved"
        return checked.finding(EGRESS_WITHOUT_DNS, first, _path(checked, first), text, _TODO)
    text = f"egress of {named} is closed{beside}, also to DNS"
    return checked.finding(CLOSED_WITHOUT_DNS, first, _path(checked, first), text, f"if it is not on purpose, {_TODO}")


def _path(checked: Checked, policy: NetworkPolicy) -> str:
    spec = checked.repository.written[key_of(policy)].content.get("spec")
    has_egress = isinstance(spec, dict) and spec.get("egress") is not None
    return "spec.egress" if has_egress else "spec.policyTypes"
