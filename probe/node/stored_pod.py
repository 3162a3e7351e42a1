"""Checks the pod objects that the last probe has stored: a damaged value must not fail later, inside the compiler."""

from __future__ import annotations

import ipaddress

import msgspec

from enrich.model import Pod
from enrich.wire.bounds import Namespace, Nanoseconds, ObjectName, Port, Uid


def check_pod(pod: Pod) -> None:
    """Raise ValueError if a pod has a value that no pod of the API can have."""
    msgspec.convert((pod.namespace, pod.name, pod.uid), tuple[Namespace, ObjectName, Uid])
    msgspec.convert((pod.started_ns, pod.acknowledged_ns), tuple[Nanoseconds, Nanoseconds])
    for port in pod.ports:
        msgspec.convert(port.port, Port)
    for address in pod.ips:
        if str(ipaddress.ip_address(address)) != address:
            raise ValueError(f"{address!r} of pod {pod.key} is not how an address is stored")
