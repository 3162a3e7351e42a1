"""Profiles: what policies can see of a pod, without what differs from pod to pod of one workload.

A year has millions of pods and few kinds of pods. A profile is a distinct (namespace, workload, labels, named ports);
its number is a hash of these, so that every worker gives the same number without asking anybody. Labels that differ by
pod or by rollout are left out, because they would make a profile of each pod; a question that needs such a label is
answered ``cannot say``.

An example: pod ``data/db-7f9c-x2x1`` with the labels ``app=db``, ``pod-template-hash=7f9c`` of the Deployment ``db``
has the profile (data, Deployment/db, app=db, postgres 5432/TCP), and so has each pod that the next rollout makes.

Which labels are left out is a setting of the workers. A profile that was made with another setting than the default
says so, and has another number. So whoever reads it judges with the setting of its writer, also of a time before that
was changed; and two workers with different settings never mean different pods by one number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from enrich.history.left_out import LEFT_OUT
from enrich.model import NamedPort, Owner, Pod, Protocol
from enrich.wire.journal import ContainerPort, Profile
from enrich.wire.journal import number_of as number_of  # noqa: PLC0414 - modules import it from here

_STANDARD: Final = frozenset(LEFT_OUT)
PORT_PROTOCOLS: Final = frozenset(map(int, Protocol))
"""The protocols whose ports policies name, by IANA number."""


def is_left_out(label: str, left_out: Collection[str] = LEFT_OUT) -> bool:
    """Return whether profiles are made without a label of this key."""
    return label in left_out or any(one.endswith("*") and label.startswith(one[:-1]) for one in left_out)


def profile_of(pod: Pod, workload: Owner | None, left_out: Collection[str] = LEFT_OUT) -> Profile:
    """Return the profile of a pod. ``workload`` is what runs the pod, as records name it
    (:meth:`enrich.index.cluster.Cluster.workload_of`); None for a pod that nothing runs."""
    labels = {key: value for key, value in sorted(pod.labels.items()) if not is_left_out(key, left_out)}
    ports = sorted({(port.name, port.port, int(port.protocol)) for port in pod.ports})
    return Profile(
        namespace=pod.namespace,
        workload_kind=workload.kind if workload else "",
        workload_name=workload.name if workload else "",
        labels=labels,
        ports=tuple(ContainerPort(*port) for port in ports),
        host_network=pod.host_network,
        left_out=msgspec.UNSET if frozenset(left_out) == _STANDARD else tuple(sorted(set(left_out))),
    )


def left_out_of(profile: Profile) -> tuple[str, ...]:
    """Return the labels that a profile was made without: its writer's setting, which need not be the reader's."""
    return LEFT_OUT if profile.left_out is msgspec.UNSET else profile.left_out


def all_left_out(profiles: Iterable[Profile]) -> frozenset[str]:
    """Return the labels that any of the profiles was made without."""
    return frozenset(label for one in {left_out_of(profile) for profile in profiles} for label in one)


def named_ports(profile: Profile) -> tuple[NamedPort, ...]:
    """Return the named ports of a profile's pods."""
    return tuple(
        NamedPort(one.name, one.port, Protocol(one.protocol)) for one in profile.ports if one.protocol in PORT_PROTOCOLS
    )
