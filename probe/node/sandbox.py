"""Finds the host's end of a pod's interface from a descriptor of the pod's network namespace, without entering it.

The container runtime names the namespace by a path, which the CNI plugin opens: the probe is in a container of its own
and has no SYS_ADMIN, without which setns(2) is refused. Three requests by netlink need NET_ADMIN only:

1. RTM_GETNSID with the descriptor: the id that the node's namespace has for the pod's.
2. RTM_GETLINK in that namespace, by name: the interface's index there, its kind, and the index of the other end.
3. RTM_GETLINK of that index here: its other end must be the interface of step 2, in that namespace.
"""

from __future__ import annotations

from probe.node.links import get_link, namespace_id


class NotEnforceableError(Exception):
    """The interface has no end on this node to which programs can be attached; the message says why."""


def host_end(descriptor: int, name: str) -> int:
    """Return the index of the host's end of the interface ``name``, on a thread in the node's network namespace.

    Raises NotEnforceableError, and OSError if there is no such interface.
    """
    namespace = namespace_id(descriptor)
    if namespace < 0:
        raise NotEnforceableError(f"no interface of this node leads to the network namespace of {name}")
    inside = get_link(name=name, namespace=namespace)
    if inside.kind != "veth":
        raise NotEnforceableError(f"{name} is not a veth, but {inside.kind or 'a device of the machine'}")
    outside = get_link(inside.peer)
    if (outside.kind, outside.peer, outside.namespace) != ("veth", inside.index, namespace):
        raise NotEnforceableError(f"the other end of {name} is not in this node's network namespace")
    return outside.index
