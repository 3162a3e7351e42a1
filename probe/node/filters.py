"""Our tc filters on the clsact qdisc of a device: they run before everybody else's, and no other is ever touched.

THEORY OF OPERATION. The filters of a hook run by ascending priority until one returns something else than
TC_ACT_UNSPEC, so a filter before ours can skip it. A priority has one kind of filter and one protocol; of several bpf
filters with one priority, the newest runs first (net/sched/cls_bpf.c, cls_bpf_change). Therefore:

- Ours gets priority 1. If another bpf filter has it, ours gets a handle of its own, and runs first as the newest.
- If ours is first already, it is replaced under its handle, in one step. If another has got before it since, a new one
  is added before the old one is removed.
- If another kind of filter has priority 1, no place is before it. Ours is put behind it, and the caller is informed.
- A device with the qdisc `ingress` (the CNI plugin `bandwidth` makes it) can have no clsact. The filters of both hooks
  would fall into its one list, so ours for packets that leave by the device has no place there.

Ours are known by their name, with any priority and handle.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any, Final, Literal

from probe.node.netlink import NodeNetwork

Hook = Literal["ingress", "egress"]

PREFIX: Final = "kubeweir_"
"""What the names of our filters begin with."""
_PARENT: Final[dict[Hook, int]] = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_QDISC_PARENT: Final = 0xFFFFFFF1
"""TC_H_INGRESS, which is TC_H_CLSACT as well: a device has one of the two qdiscs."""
_FIRST: Final = 1
"""The lowest priority."""
_ALL_PROTOCOLS: Final = 3
"""ETH_P_ALL, as pyroute2 takes it; it is in network order in answers."""
_GONE: Final = (errno.ENOENT, errno.EINVAL, errno.ENODEV)
"""How the kernel answers if the filter, the qdisc or the device is gone."""


class HookTakenError(RuntimeError):
    """Another program's qdisc or filter leaves no place before it. The message says which."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of a hook. ``shareable``: of its priority are bpf filters for all protocols."""

    priority: int
    handle: int
    kind: str
    name: str
    shareable: bool

    @property
    def ours(self) -> bool:
        """Whether it carries our name."""
        return self.name.startswith(PREFIX)


class Filters:
    """The filters of one node's devices. Every method raises OSError, also if the device is gone (ENODEV)."""

    def __init__(self, network: NodeNetwork) -> None:
        self._network = network

    def put(self, index: int, hook: Hook, program: int, name: str) -> None:
        """Have our only filter on the hook be ``program``, before all others. Raises HookTakenError."""
        kind = self._make_qdisc(index)
        if kind == "ingress" and hook == "egress":
            raise HookTakenError(
                "the device has the qdisc `ingress`, which has no hook for packets that leave by the device "
                "(the CNI plugin bandwidth makes it)"
            )
        found = self.of(index, hook)
        place, is_first = _place(found)
        command = "replace-filter" if any((one.priority, one.handle) == place for one in found) else "add-filter"
        priority, handle = place
        self._network.tc(
            command, "bpf", index, handle, prio=priority, fd=program, name=name, parent=_PARENT[hook],
            classid=1, direct_action=True, protocol=_ALL_PROTOCOLS,
        )  # fmt: skip
        for one in found:
            if one.ours and (one.priority, one.handle) != place:
                self._remove(index, hook, one)
        if not is_first:
            first = next(one for one in found if not one.ours)
            raise HookTakenError(
                f"a {first.kind} filter {first.name or 'without a name'} has priority {first.priority} on its "
                f"{hook} hook, and no filter can run before it"
            )

    def remove(self, index: int, hook: Hook) -> None:
        """Remove our filters, if there are any."""
        for one in self.of(index, hook):
            if one.ours:
                self._remove(index, hook, one)

    def of(self, index: int, hook: Hook) -> list[Filter]:
        """Return the filters of a hook in the order in which they run; none if the device is gone."""
        try:
            return [_parsed(entry) for entry in self._network.filters(index, _PARENT[hook]) if _is_filter(entry)]
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return []

    def name(self, index: int, hook: Hook) -> str | None:
        """Return the name of our filter on a hook, None if there is none."""
        return next((one.name for one in self.of(index, hook) if one.ours), None)

    def is_first(self, index: int, hook: Hook, name: str) -> bool:
        """Return whether the filter that runs first is ours with this name."""
        found = self.of(index, hook)
        return bool(found) and found[0].name == name

    def _make_qdisc(self, index: int) -> str:
        """Make the clsact qdisc if there is none. Return the kind of what is there: clsact or ingress."""
        try:
            self._network.tc("add", "clsact", index)
        except OSError as error:
            if error.errno != errno.EEXIST:
                found = self._qdisc(index)
                if found is None:
                    raise
                return found
            return self._qdisc(index) or "clsact"
        return "clsact"

    def _qdisc(self, index: int) -> str | None:
        for entry in self._network.qdiscs(index):
            if entry["index"] == index and entry["parent"] == _QDISC_PARENT:
                return str(entry.get_attr("TCA_KIND"))
        return None

    def _remove(self, index: int, hook: Hook, one: Filter) -> None:
        try:
            self._network.tc(
                "del-filter", "bpf", index, one.handle, prio=one.priority, parent=_PARENT[hook], protocol=_ALL_PROTOCOLS
            )
        except OSError as error:
            if error.errno not in _GONE:
                raise


def _place(found: list[Filter]) -> tuple[tuple[int, int], bool]:
    """Return priority and handle for our filter among those of its hook, and whether it runs first there."""
    if not found or found[0].priority > _FIRST:
        return (_FIRST, 1), True
    if found[0].ours:
        return (found[0].priority, found[0].handle), True
    priority = _FIRST
    while any(one.priority == priority and not one.shareable for one in found):
        priority += 1
    ours = next((one for one in found if one.ours and one.priority == priority), None)
    if ours and priority != _FIRST:
        return (priority, ours.handle), False
    handles = [one.handle for one in found if one.priority == priority]
    return (priority, max(handles, default=0) + 1), priority == _FIRST


def _is_filter(entry: Any) -> bool:
    """Return whether a message of the dump is a filter that packets meet: not a chain's head, nor in a later chain."""
    return bool(entry["handle"]) and not entry.get_attr("TCA_CHAIN")


def _parsed(entry: Any) -> Filter:
    kind = str(entry.get_attr("TCA_KIND"))
    options = entry.get_attr("TCA_OPTIONS") if kind == "bpf" else None
    name = options.get_attr("TCA_BPF_NAME") if options else None
    protocol = int.from_bytes((entry["info"] & 0xFFFF).to_bytes(2, "little"), "big")
    return Filter(
        entry["info"] >> 16, entry["handle"], kind, str(name or ""), kind == "bpf" and protocol == _ALL_PROTOCOLS
    )
