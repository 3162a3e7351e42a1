"""Decides who may claim an interface, and what becomes of two claims: pure, one part of :mod:`probe.node.binding`.

Theory of operation. A pod with NET_ADMIN may put any address on its interface, also one that the next pod is about
to get. So an address inside an interface is a claim, and not a proof. What a pod cannot change is the host's end, the
id of its network namespace, and what was seen inside before its first process ran. An example: pod thief has 10.0.0.1
on interface 3. It adds 10.0.0.2, which pod web gets a second later on interface 4.

1. Interface 3 had 10.0.0.1 inside when the probe first saw an address there. So web cannot claim it, even if thief has
   removed 10.0.0.1 meanwhile.
2. A pod that is bound claims no other interface; interface 4, once it is web's, stays web's.
3. If the probe starts and finds 10.0.0.2 inside both, each claim is dropped that leaves another pod without an
   interface: thief can only have interface 3, so web has 4.
4. If that does not settle it either, no pod gets the interfaces in question. They are closed, and the conflict is
   reported (``address_conflict``), until one of them is gone or has lost the address.

Another interface whose other end is in the namespace of a bound one is the same pod's (Multus gives pods such ones).
Its addresses are the first ones that were seen inside and that no other pod in the cluster has.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from enrich.model import Pod
from probe.node.netlink import Veth

CONFLICT: Final = "address_conflict"

Claims = dict[int, dict[str, Pod]]
"""The pods that claim each interface, by index and UID."""


def claims_of(
    running: Mapping[str, Pod], veths: Iterable[Veth], holders: Mapping[int, Pod], may_claim: Callable[[int, Pod], bool]
) -> Claims:
    """Return the claims on each veth: pods that have one of their addresses inside. ``may_claim`` refuses some.

    ``holders`` have the veths that were bound; a veth in the namespace of a bound one belongs to that pod only.
    """
    by_address: dict[str, list[Pod]] = {}
    for pod in running.values():
        for address in pod.ips:
            by_address.setdefault(address, []).append(pod)
    known = list(veths)
    tenants = namespaces(known, holders)

    def can_claim(pod: Pod, veth: Veth) -> bool:
        holder = holders.get(veth.index)
        if holder is not None and holder.uid == pod.uid:
            return True
        tenant = tenants.get(veth.namespace)
        if tenant is not None and tenant != pod.uid and veth.index not in holders:
            return False
        return (not veth.first or not veth.first.isdisjoint(pod.ips)) and may_claim(veth.index, pod)

    return {
        veth.index: {
            pod.uid: pod for address in veth.addresses for pod in by_address.get(address, ()) if can_claim(pod, veth)
        }
        for veth in known
    }


def namespaces(veths: Iterable[Veth], bound: Mapping[int, Pod]) -> dict[int | None, str]:
    """Return the UID of the one pod whose interfaces have their other end in each namespace."""
    found: dict[int | None, set[str]] = {}
    for veth in veths:
        if veth.index in bound and veth.namespace is not None:
            found.setdefault(veth.namespace, set()).add(bound[veth.index].uid)
    return {namespace: next(iter(uids)) for namespace, uids in found.items() if len(uids) == 1}


def drop_impossible(claims: Claims, holders: Mapping[int, Pod]) -> Claims:
    """Return the claims without those that would leave another pod without any interface.

    A pod that claims one interface only, and claims it alone among such pods, must have that one.
    """
    left = {index: dict(claimants) for index, claimants in claims.items()}
    changed = True
    while changed:
        changed = False
        claimed = _by_pod(left)
        for index, claimants in left.items():
            if index in holders or len(claimants) < 2:
                continue
            sure = [uid for uid in claimants if len(claimed[uid]) == 1]
            others = [uid for uid in claimants if len(claimed[uid]) > 1]
            if len(sure) == 1 and others:
                left[index] = {sure[0]: claimants[sure[0]]}
                changed = True
                break
    return left


def conflicts(claims: Claims, holders: Mapping[int, Pod], names: Mapping[int, str]) -> dict[int, str]:
    """Return the interfaces that no pod holds and whose only claimant claims another one too, with a reason."""
    found: dict[int, str] = {}
    by_pod = _by_pod(claims)
    for index, claimants in claims.items():
        if index in holders or len(claimants) != 1:
            continue
        (pod,) = claimants.values()
        others = sorted(
            names[other]
            for other in by_pod[pod.uid]
            if other != index and (other not in holders or holders[other].uid == pod.uid)
        )
        if others:
            found[index] = f"{CONFLICT}: {', '.join(others)} has the address of pod {pod.key} too"
    return found


def second_interfaces(
    veths: Iterable[Veth], bound: Mapping[int, Pod], is_taken: Callable[[str], bool]
) -> dict[int, Pod]:
    """Return each unbound veth whose other end is in the namespace of one bound pod, with that pod and its addresses.

    ``is_taken`` returns whether an address is known to be somebody's: a pod that could put it on a second interface
    would otherwise speak for that one.
    """
    known = list(veths)
    tenants = namespaces(known, bound)
    pods = {pod.uid: pod for pod in bound.values()}
    found = {}
    for veth in known:
        uid = tenants.get(veth.namespace)
        if veth.index in bound or veth.namespace is None or uid is None:
            continue
        families = {
            ipaddress.ip_address(address).version: address
            for address in sorted(veth.first, reverse=True)
            if not is_taken(address)
        }
        ips = tuple(families[version] for version in sorted(families))
        found[veth.index] = msgspec.structs.replace(pods[uid], ips=ips)
    return found


def _by_pod(claims: Claims) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for index, claimants in claims.items():
        for uid in claimants:
            found.setdefault(uid, set()).add(index)
    return found
