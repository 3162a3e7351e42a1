"""Pairs as the workers would count them, made from the random clusters of the property tests."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from enrich.history.profile import number_of, profile_of
from enrich.history.stand_ins import Known
from enrich.model import Owner, Pod, Protocol
from enrich.policy.decide import Decision, decide
from enrich.policy.matching import Direction, Endpoint, PolicyView, endpoint_at
from enrich.wire.journal import Profile
from enrich.wire.pair import PairEnd, PairKey
from tests.probe.policy.random_clusters import EXTERNALS, subjects

POD_RANGES = (ipaddress.ip_network("10.0.0.0/28"), ipaddress.ip_network("fd00::/120"))
"""Where random_clusters puts pods."""
PORTS = (79, 80, 443, 65535)
Asked = tuple[Pod, Direction, Endpoint, Protocol | None, int]


def profiles_of(view: PolicyView) -> dict[str, Profile]:
    """Return the profiles of all pods by number."""
    return {number_of(profile): profile for profile in map(_profile, view.pods.values())}


def known_of(view: PolicyView) -> Known:
    return Known(profiles_of(view), POD_RANGES)


def asked(view: PolicyView) -> Iterator[Asked]:
    """Yield every local pod in both directions with every address, at ports at which outcomes can change."""
    ips = {ip for pod in view.pods.values() for ip in pod.ips} | {ip for node in view.nodes.values() for ip in node.ips}
    for pod in subjects(view):
        for direction in Direction:
            for ip in sorted(ips | set(EXTERNALS)):
                peer = endpoint_at(view, ip)
                yield pod, direction, peer, None, 0
                for protocol in Protocol:
                    for port in PORTS:
                        yield pod, direction, peer, protocol, port


def decided(view: PolicyView, query: Asked) -> Decision:
    pod, direction, peer, protocol, port = query
    return decide(view, pod, direction, peer, protocol, port)


def key_of(view: PolicyView, query: Asked, decision: Decision, *, coarse: int = 0) -> PairKey:
    """Return the key under which a worker counts the verdict; ``coarse``: addresses of the world as wide blocks."""
    pod, direction, peer, protocol, port = query
    return PairKey(
        subject=pod_end(pod),
        peer=peer_end(view, peer, coarse),
        direction="ingress" if direction is Direction.INGRESS else "egress",
        protocol=1 if protocol is None else int(protocol),
        port=8 << 8 if protocol is None else port,
        verdict=decision.verdict.name.lower(),  # type: ignore[arg-type]
        reason=decision.reason.name.lower(),
        policies=decision.policies,
    )


def pod_end(pod: Pod) -> PairEnd:
    profile = _profile(pod)
    return PairEnd(
        profile=number_of(profile), namespace=pod.namespace, workload=f"{profile.workload_kind}/{profile.workload_name}"
    )


def peer_end(view: PolicyView, peer: Endpoint, coarse: int = 0) -> PairEnd:
    if peer.pod is not None:
        return pod_end(peer.pod)
    node = next((node for node in view.nodes.values() if peer.ip in node.ips), None)
    if node is not None:
        return PairEnd(node=node.name)
    longest = ipaddress.ip_address(peer.ip).max_prefixlen
    block = ipaddress.ip_network((peer.ip, longest - coarse), strict=False)
    return PairEnd(block=str(block), coarse=bool(coarse))


def _profile(pod: Pod) -> Profile:
    return profile_of(pod, pod.owner or Owner("Deployment", pod.name))
