"""Attach the programs: two to the host side of each pod's veth, and two to every other device.

On the other devices, one judges what leaves the node (``bpf/stamps.h``), the other what comes in: it must not claim to
be a local pod's (``bpf/sources.h``), nor have been wrapped by one (``bpf/encapsulation.h``).

Where the kernel has TCX (6.6), a program is attached by a link, which is pinned beside the maps so that enforcement
outlives the probe. The next probe replaces the program under the link in one step, so that no packet passes unjudged.
On older kernels a program is a clsact filter (``probe.node.filters``), which lives as long as its device.

Ours run before everybody else's, because a program that lets a packet pass may skip those behind it. If another got
ahead since, ours are attached once more, ahead of it. Where another program's qdisc or filter leaves no place for ours,
a pod's interface is closed instead: an XDP link drops what the pod sends, until the place is free. What the pod is sent
is not judged then, but it cannot answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, Literal

from probe.kernel import bpf
from probe.kernel.link_addresses import LinkAddresses
from probe.kernel.maps import Maps
from probe.kernel.pinned_links import DEVICE_GONE, link_at, move_link, remove_link
from probe.kernel.tunnel_ports import add_tunnel_ports
from probe.node.filters import PREFIX, Filters, Hook, HookTakenError
from probe.node.netlink import Device, NodeNetwork

Mode = Literal["tcx", "clsact"]

_HOOKS: Final[tuple[tuple[str, Hook], ...]] = (("pod_egress", "ingress"), ("pod_ingress", "egress"))
"""Program and hook. A packet that leaves the pod arrives at the host side of its veth, and vice versa."""
_TCX: Final[dict[Hook, int]] = {"ingress": bpf.TCX_INGRESS, "egress": bpf.TCX_EGRESS}
_EXITS: Final = ("exit_ethernet", "exit_tunnel", "entry_tunnel", "entry_device")
"""Programs on devices that are not a pod's."""
_CLOSED: Final = "closed"
"""The pin of the XDP link that closes an interface."""


class Attachments:
    """The programs on the node's devices. Two threads may attach, at most one calls :meth:`attach_exits`."""

    def __init__(self, maps: Maps, network: NodeNetwork, mode: Mode | None = None) -> None:
        """Use ``mode``, or by default TCX if the kernel has it and clsact otherwise."""
        self._maps = maps
        self._network = network
        self._filters = Filters(network)
        self._addresses = LinkAddresses(maps, network)
        # Beside the generations' folders: a link outlives a generation (probe.kernel.generations).
        self._folder = maps.folder.parent / "links"
        self._folder.mkdir(exist_ok=True)
        self._exits: set[int] = set()
        self._pods: set[int] = set()
        """Interfaces with pods' programs. No exit is attached to them, even if the caller does not know of them yet."""
        self._lock = threading.RLock()
        self.obstacles: dict[int, str] = {}
        """Why a program could not be attached, by interface index. A pod's interface is closed then."""
        self.mode: Mode = mode or self.supported()

    def supported(self) -> Mode:
        """Return TCX if the kernel has it, else clsact.

        This asks for a link to device 0, which never exists: a kernel without TCX refuses the type with EINVAL."""
        try:
            os.close(self._network.run(bpf.link_create, self._maps.programs["pod_egress"], 0, bpf.TCX_INGRESS))
        except OSError as error:
            return "clsact" if error.errno == errno.EINVAL else "tcx"
        return "tcx"

    def attach(self, index: int, *, bound: bool = False) -> bool:
        """Attach both programs to a pod's interface, replacing an earlier probe's. Raises OSError.

        ``bound`` says that its pod is known. Return False if the device has been removed meanwhile. ``obstacles`` says
        if another program is in the way, or if the interface has no link-layer address of its own.
        """
        with self._lock:
            self.obstacles.pop(index, None)
            # First: without its address, the programs that come let none of its frames pass.
            if not self.learn(index, bound=bound, anew=not self.carries(index)) or not all(
                self._attach(index, program, hook) for program, hook in _HOOKS
            ):
                return False
            self._pods.add(index)
            if index in self.obstacles:
                self._close(index)
                return True
            # The exit's program is there if the interface was unknown before. It goes last: egress is judged all the
            # time.
            for program in (*_EXITS, _CLOSED):
                remove_link(self._pin(index, program))
            return True

    def learn(self, index: int, *, bound: bool = False, anew: bool = False) -> bool:
        """Read the interface's link-layer address (``probe.kernel.link_addresses``). Return False if it is gone."""
        with self._lock:
            try:
                problem = self._addresses.learn(index, fix=bound, anew=anew)
            except OSError as error:
                if error.errno not in DEVICE_GONE:
                    raise
                return False
            if problem:
                self.obstacles[index] = problem
            return True

    def attach_new(self, index: int) -> bool:
        """Attach as :meth:`attach` does, in as few steps as possible if the interface has just appeared."""
        if self.mode == "tcx":
            with self._lock, contextlib.suppress(OSError):
                if index not in self._pods and index not in self._exits:
                    for program, hook in _HOOKS:
                        self._pin_link(self._pin(index, program), self._maps.programs[program], index, hook)
                    self._pods.add(index)
                    return self.learn(index, anew=True)
        return self.attach(index)

    def detach(self, index: int) -> None:
        """Remove both programs from a pod's interface; its traffic is not judged any more."""
        self.forget(index)
        for _, hook in _HOOKS:
            self._filters.remove(index, hook)

    def forget(self, index: int) -> None:
        """Remove the pins of an interface that is gone. If its index is another's now, that one is not touched."""
        with self._lock:
            self._pods.discard(index)
            self.obstacles.pop(index, None)
            self._addresses.forget(index)
            for program in (*(program for program, _ in _HOOKS), _CLOSED):
                remove_link(self._pin(index, program))

    def attach_exits(self, devices: Iterable[Device], pods: Collection[int]) -> int:
        """Attach the exit's and the entry's program to every device not in ``pods``. Raises OSError.

        Return on how many devices one was missing. A device that has been removed meanwhile is skipped.
        """
        added = 0
        found = list(devices)
        with self._lock:
            self._addresses.keep({device.index for device in found} | self._pods)
        others = [device for device in found if device.index not in pods]
        add_tunnel_ports(self._maps, {device.tunnel_port for device in others if device.tunnel_port})
        alive = {device.index: device for device in others if not device.gives_back}
        for index, device in alive.items():
            hooks = _exit_hooks(device)
            with self._lock:
                if index in self._pods or (
                    index in self._exits and all(self._is_first(index, *hook) for hook in hooks)
                ):
                    continue
                self.obstacles.pop(index, None)
                if all(self._attach(index, *hook) for hook in hooks) and index not in self.obstacles:
                    self._exits.add(index)
                    added += 1
        for device in others:
            if device.gives_back and self.mode == "clsact":
                self._filters.remove(device.index, "egress")
        self._exits &= alive.keys()
        with self._lock:
            for path in self._folder.iterdir():
                if path.name.endswith(_EXITS) and _index(path) not in alive:
                    remove_link(path)
        for index in self.obstacles.keys() - alive.keys() - set(pods):
            del self.obstacles[index]
        return added

    def move_rest(self) -> None:
        """Have every program of ours that is attached anywhere be this generation's. Raises OSError."""
        for path in self._folder.iterdir():
            program = path.name.partition("_")[2]
            if program in self._maps.programs:
                self._learn_missing(_index(path), program)
                move_link(path, self._maps.programs[program])
        hooks: tuple[Hook, ...] = ("ingress", "egress")
        for device in self._network.devices():
            for hook in hooks:
                program = (self._filters.name(device.index, hook) or "").removeprefix(PREFIX)
                if program in self._maps.programs:
                    self._learn_missing(device.index, program)
                    self._attach(device.index, program, hook)

    def _learn_missing(self, index: int, program: str) -> None:
        """Read the address of an interface whose generation did not have it."""
        if program == _HOOKS[0][0]:
            self.learn(index)

    def links(self) -> set[int]:
        """Return the indexes of pods' interfaces that have a pinned link or were attached, even if they are gone."""
        with self._lock:
            return self._pods | {_index(path) for path in self._folder.iterdir() if not path.name.endswith(_EXITS)}

    def is_attached(self, index: int, *, bound: bool = False) -> bool:
        """Return whether both programs are attached to the interface now, before all others.

        ``bound`` asks, too, whether its address is fixed: it is not if the index is another interface's since.
        """
        if self._link_of(index, _CLOSED) or (bound and not self._addresses.is_fixed(index)):
            return False
        return all(self._is_first(index, program, hook) for program, hook in _HOOKS)

    def carries(self, index: int) -> bool:
        """Return whether a pod's program of ours is attached to the interface now.

        Links and filters do not outlive their interface. So if this is true, no other interface got its index since.
        """
        return bool(self._link_of(index, _CLOSED)) or any(self._has(index, *hook) for hook in _HOOKS)

    def carries_exit(self, index: int) -> bool:
        """Return whether a program of ours is attached to the interface as to one that is not a pod's, and no other."""
        return self._has(index, "exit_ethernet", "egress") and not self.carries(index)

    def _has(self, index: int, program: str, hook: Hook) -> bool:
        # The last probe may have attached in the other way.
        return bool(self._link_of(index, program)) or self._filters.name(index, hook) == f"{PREFIX}{program}"

    def _is_first(self, index: int, program: str, hook: Hook) -> bool:
        if self.mode == "clsact":
            return self._filters.is_first(index, hook, f"{PREFIX}{program}")
        link = self._link_of(index, program)
        try:
            return link is not None and self._network.run(bpf.first_program, index, _TCX[hook]) == link.program
        except OSError as error:
            if error.errno not in DEVICE_GONE:
                raise
            return False

    def _link_of(self, index: int, program: str) -> bpf.LinkInfo | None:
        return link_at(self._pin(index, program), index)

    def _attach(self, index: int, program: str, hook: Hook) -> bool:
        """Return False if the device is gone: devices are removed at any time, which is not an error."""
        fd = self._maps.programs[program]
        try:
            # The last probe may have attached in the other way.
            if self.mode == "clsact":
                self._filters.put(index, hook, fd, f"{PREFIX}{program}")
                remove_link(self._pin(index, program))
            else:
                self._attach_link(index, program, fd, hook)
                self._filters.remove(index, hook)
        except HookTakenError as error:
            self.obstacles[index] = str(error)
        except OSError as error:
            if error.errno not in DEVICE_GONE:
                raise
            return False
        return True

    def _attach_link(self, index: int, program: str, fd: int, hook: Hook) -> None:
        path = self._pin(index, program)
        if self._link_of(index, program):
            with bpf.closing(bpf.get(path)) as link:
                bpf.link_update(link, fd)
            if self._is_first(index, program, hook):
                return
            # A hook takes a program once only, so ours must go before it can come back ahead of the others. Meanwhile
            # nothing passes.
            with bpf.closing(bpf.constant_program()) as dropping:
                barrier = self._link(dropping, index, hook)
            try:
                remove_link(path)
                self._pin_link(path, fd, index, hook)
            finally:
                bpf.link_detach(barrier)
                os.close(barrier)
            return
        remove_link(path)
        self._pin_link(path, fd, index, hook)

    def _pin_link(self, path: Path, fd: int, index: int, hook: Hook) -> None:
        with bpf.closing(self._link(fd, index, hook)) as link:
            bpf.pin(link, path)

    def _link(self, fd: int, index: int, hook: Hook) -> int:
        return self._network.run(bpf.link_create, fd, index, _TCX[hook])

    def _close(self, index: int) -> None:
        """Drop what a pod sends, by XDP, which comes before every filter."""
        if self._link_of(index, _CLOSED):
            return
        path = self._pin(index, _CLOSED)
        remove_link(path)
        try:
            with bpf.closing(self._network.run(bpf.link_create_closed, index)) as link:
                bpf.pin(link, path)
        except OSError as error:
            if error.errno not in DEVICE_GONE:
                self.obstacles[index] += f". What it sends passes as well: {error.strerror}"

    def _pin(self, index: int, program: str) -> Path:
        return self._folder / f"{index}_{program}"


def _exit_hooks(device: Device) -> list[tuple[str, Hook]]:
    leaving = "exit_ethernet" if device.ethernet else "exit_tunnel"
    return [(leaving, "egress"), ("entry_tunnel" if device.unwraps else "entry_device", "ingress")]


def _index(pin: Path) -> int:
    return int(pin.name.split("_")[0])
