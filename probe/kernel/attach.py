"""Attach the programs: both to the host side of each pod's veth, one to the egress of every other device.

Where the kernel has TCX (6.6), a program is attached by a link, which is pinned beside the maps so that enforcement
outlives the probe. The next probe replaces the program under the link in one step, so that no packet passes unjudged.
On older kernels a program is a clsact filter, which lives as long as its device.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, Literal

from probe.kernel import bpf
from probe.kernel.maps import Maps
from probe.node.netlink import Device, NodeNetwork

Mode = Literal["tcx", "clsact"]

_HOOKS: Final = (("pod_egress", "ingress", bpf.TCX_INGRESS), ("pod_ingress", "egress", bpf.TCX_EGRESS))
"""Program, hook and attach type. A packet that leaves the pod arrives at the host side of its veth, and vice versa."""
_EXITS: Final = ("exit_ethernet", "exit_tunnel")
_DEVICE_GONE: Final = (errno.ENODEV, errno.ENOLINK)
"""ENOLINK: the link exists, but its device was removed (kernel/bpf/tcx.c, tcx_link_update)."""


class Attachments:
    """The programs on the node's devices. One caller at a time."""

    def __init__(self, maps: Maps, network: NodeNetwork, mode: Mode | None = None) -> None:
        """Use ``mode``, or by default TCX if the kernel has it and clsact otherwise."""
        self._maps = maps
        self._network = network
        self._folder = maps.folder / "links"
        self._folder.mkdir(exist_ok=True)
        self._exits: set[int] = set()
        self.mode: Mode = mode or self._supported()

    def attach(self, index: int) -> bool:
        """Attach both programs to a pod's interface, replacing an earlier probe's. Raises OSError.

        Return False if the device has been removed meanwhile.
        """
        if not all(self._attach(index, program, hook, kind) for program, hook, kind in _HOOKS):
            return False
        # The exit's program is there if the interface was unknown before. It goes last: egress is judged all the time.
        for program in _EXITS:
            self._remove_link(self._pin(index, program))
        return True

    def detach(self, index: int) -> None:
        """Remove both programs from a pod's interface; its traffic is not judged any more."""
        self.forget(index)
        for _, hook, _ in _HOOKS:
            self._network.remove_filter(index, hook)

    def forget(self, index: int) -> None:
        """Remove the pins of an interface that is gone. If its index is another's now, that one is not touched."""
        for program, _, _ in _HOOKS:
            self._remove_link(self._pin(index, program))

    def attach_exits(self, devices: Iterable[Device], pods: Collection[int]) -> int:
        """Attach the exit's program to every device that is not in ``pods``. Raises OSError.

        Return on how many devices it was missing. A device that has been removed meanwhile is skipped.
        """
        added = 0
        alive = {device.index: device for device in devices if device.index not in pods}
        for index, device in alive.items():
            program = "exit_ethernet" if device.ethernet else "exit_tunnel"
            if index in self._exits and self._is_attached(index, program, "egress"):
                continue
            if self._attach(index, program, "egress", bpf.TCX_EGRESS):
                self._exits.add(index)
                added += 1
        self._exits &= alive.keys()
        for path in self._folder.iterdir():
            if path.name.endswith(_EXITS) and _index(path) not in alive:
                self._remove_link(path)
        return added

    def links(self) -> set[int]:
        """Return the indexes of pods' interfaces for which a link is pinned, even if the device is gone."""
        return {_index(path) for path in self._folder.iterdir() if not path.name.endswith(_EXITS)}

    def is_attached(self, index: int) -> bool:
        """Return whether both programs are attached to the interface now."""
        return all(self._is_attached(index, program, hook) for program, hook, _ in _HOOKS)

    def carries(self, index: int) -> bool:
        """Return whether a pod's program of ours is attached to the interface now.

        Links and filters do not outlive their interface. So if this is true, no other interface got its index since.
        """
        return any(self._is_attached(index, program, hook) for program, hook, _ in _HOOKS)

    def _is_attached(self, index: int, program: str, hook: str) -> bool:
        if self.mode == "clsact":
            return self._network.filter_name(index, hook) == f"kubeweir_{program}"
        try:
            with bpf.closing(bpf.get(self._pin(index, program))) as link:
                return bpf.link_ifindex(link)[0] == index
        except FileNotFoundError:
            return False

    def _attach(self, index: int, program: str, hook: str, kind: int) -> bool:
        """Return False if the device is gone: devices are removed at any time, which is not an error."""
        fd = self._maps.programs[program]
        try:
            if self.mode == "clsact":
                self._network.add_filter(index, hook, fd, f"kubeweir_{program}")
            else:
                self._attach_link(index, program, fd, kind)
        except OSError as error:
            if error.errno not in _DEVICE_GONE:
                raise
            return False
        return True

    def _attach_link(self, index: int, program: str, fd: int, kind: int) -> None:
        path = self._pin(index, program)
        if self._is_attached(index, program, ""):
            with bpf.closing(bpf.get(path)) as link:
                bpf.link_update(link, fd)
            return
        self._remove_link(path)
        with bpf.closing(self._network.run(bpf.link_create, fd, index, kind)) as link:
            bpf.pin(link, path)

    def _remove_link(self, path: Path) -> None:
        """Detach a pinned link, then remove its pin.

        Without the last reference the kernel would detach the link too, but later: bpffs frees the pin's inode after a
        grace period, and bpf_link_put() leaves the rest to a work queue. Until then an attach of the same program
        to the same device fails (EEXIST).
        """
        try:
            with bpf.closing(bpf.get(path)) as link:
                bpf.link_detach(link)
        except FileNotFoundError:
            return
        path.unlink()

    def _pin(self, index: int, program: str) -> Path:
        return self._folder / f"{index}_{program}"

    def _supported(self) -> Mode:
        """Ask for a link to device 0, which never exists: a kernel without TCX refuses the attach type with EINVAL."""
        try:
            os.close(self._network.run(bpf.link_create, self._maps.programs["pod_egress"], 0, bpf.TCX_INGRESS))
        except OSError as error:
            return "clsact" if error.errno == errno.EINVAL else "tcx"
        return "tcx"


def _index(pin: Path) -> int:
    return int(pin.name.split("_")[0])
