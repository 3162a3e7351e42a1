"""Programs at the host's end of a pod's veth, and on the way out of every other device: TCX links where the kernel has
them (6.6), clsact filters elsewhere.

A link is pinned beside the maps, so that enforcement goes on when the probe ends; the next start puts its own program
under it in one step. A clsact filter lives as long as its device.
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
"""What leaves the pod comes in at the host's end of its veth, and the other way round."""


_EXITS: Final = ("exit_ethernet", "exit_tunnel")
_GONE: Final = (errno.ENODEV, errno.ENOLINK)
"""No such device; or a link whose device went after we looked (kernel/bpf/tcx.c, tcx_link_update)."""


class Attachments:
    """Both programs on each of the node's pod interfaces, one on the egress of all others."""

    def __init__(self, maps: Maps, network: NodeNetwork, mode: Mode | None = None) -> None:
        """``mode`` None: what the kernel has."""
        self._maps = maps
        self._network = network
        self._folder = maps.folder / "links"
        self._folder.mkdir(exist_ok=True)
        self._covered: set[int] = set()
        self.mode: Mode = mode or self._supported()

    def attach(self, index: int) -> bool:
        """Put this probe's programs on an interface, in the place of an earlier probe's. Raises OSError.

        False: it is gone meanwhile.
        """
        if not all(self._attach(index, program, hook, kind) for program, hook, kind in _HOOKS):
            return False
        # Only now: what leaves by it is judged all the while.
        for program in _EXITS:
            self._pin(index, program).unlink(missing_ok=True)
        return True

    def detach(self, index: int) -> None:
        """Take both programs away; the pod is then open."""
        for program, hook, _ in _HOOKS:
            self._pin(index, program).unlink(missing_ok=True)
            self._network.remove_filter(index, hook)

    def cover(self, devices: Iterable[Device], pods: Collection[int]) -> int:
        """Put the exit's program on every device that is no pod's. Returns how many it was not on. Raises OSError.

        One that is gone meanwhile is passed over: nothing leaves by it.
        """
        fresh = 0
        alive = {device.index: device for device in devices if device.index not in pods}
        for index, device in alive.items():
            program = "exit_ethernet" if device.ethernet else "exit_tunnel"
            if index in self._covered and self._is_attached(index, program, "egress"):
                continue
            if self._attach(index, program, "egress", bpf.TCX_EGRESS):
                self._covered.add(index)
                fresh += 1
        self._covered &= alive.keys()
        for path in self._folder.iterdir():
            if path.name.endswith(_EXITS) and _index(path) not in alive:
                path.unlink(missing_ok=True)
        return fresh

    def links(self) -> set[int]:
        """Pods' interfaces for which a link is pinned, alive or not."""
        return {_index(path) for path in self._folder.iterdir() if not path.name.endswith(_EXITS)}

    def is_attached(self, index: int) -> bool:
        """Whether both programs are on the interface now."""
        return all(self._is_attached(index, program, hook) for program, hook, _ in _HOOKS)

    def _is_attached(self, index: int, program: str, hook: str) -> bool:
        if self.mode == "clsact":
            return self._network.filter_name(index, hook) == f"kubeweir_{program}"
        try:
            with bpf.closing(bpf.get(self._pin(index, program))) as link:
                return bpf.link_ifindex(link)[0] == index
        except FileNotFoundError:
            return False

    def _attach(self, index: int, program: str, hook: str, kind: int) -> bool:
        """False: the device is gone. A device goes at any time, which is no failure of policy."""
        fd = self._maps.programs[program]
        try:
            if self.mode == "clsact":
                self._network.add_filter(index, hook, fd, f"kubeweir_{program}")
            else:
                self._attach_link(index, program, fd, kind)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        return True

    def _attach_link(self, index: int, program: str, fd: int, kind: int) -> None:
        path = self._pin(index, program)
        if self._is_attached(index, program, ""):
            with bpf.closing(bpf.get(path)) as link:
                bpf.link_update(link, fd)
            return
        path.unlink(missing_ok=True)
        with bpf.closing(self._network.run(bpf.link_create, fd, index, kind)) as link:
            bpf.pin(link, path)

    def _pin(self, index: int, program: str) -> Path:
        return self._folder / f"{index}_{program}"

    def _supported(self) -> Mode:
        """Asks for a link on no device: a kernel without TCX does not know the attach type (EINVAL)."""
        try:
            os.close(self._network.run(bpf.link_create, self._maps.programs["pod_egress"], 0, bpf.TCX_INGRESS))
        except OSError as error:
            return "clsact" if error.errno == errno.EINVAL else "tcx"
        return "tcx"


def _index(pin: Path) -> int:
    return int(pin.name.split("_")[0])
