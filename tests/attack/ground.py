"""Where attacks take place: a rig's node, with wires out of pods and ears at interfaces."""

from __future__ import annotations

import secrets
import socket
import struct
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from netns import PATIENCE_S, Space, open_socket

from tests.attack import pace
from tests.attack.tally import Tally
from tests.kernel.ear import Ear, new_mark
from tests.kernel.frames import Wire, ipv4, ipv6, udp
from tests.kernel.rig import Rig
from tests.kernel.site import Site, Wiring

WORLD = {4: "198.51.100.7", 6: "2001:db8:7::7"}
_ARRIVAL_S = 3.0


class Shot(NamedTuple):
    """Packets that are sent one after another, and bytes by which the one that counts is recognized."""

    packets: Sequence[bytes]
    mark: bytes
    kind: int | None = None
    """The EtherType, if it is not that of an IP packet."""


class Ground:
    """One class of attacks on one rig. :meth:`close` leaves the rig as it was."""

    def __init__(self, rig: Rig, rounds: int) -> None:
        self.rig, self.rounds = rig, rounds
        self._pace = pace.measured()
        self._stack = ExitStack()
        self._ears: dict[str, Ear] = {}
        self._wires: dict[tuple[str, str], Wire] = {}

    def folder(self) -> Path:
        """Return a new folder for files of an agent."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory()))

    def patience(self, seconds: float) -> float:
        """Return how long to wait for what must arrive, and does within ``seconds`` on an idle machine.

        Its pace was measured before the class began, and may be another one now. Only what is lost is waited for so
        long.
        """
        return max(PATIENCE_S, self.stretched(seconds))

    def stretched(self, seconds: float) -> float:
        """Return how long on this machine is what takes ``seconds`` on an idle one."""
        return seconds * self._pace

    def site(self, wiring: Wiring) -> Site:
        """Connect the node to another one, and its pods by routes or by a bridge."""
        made = Site(self.rig, wiring)
        self.after(made.close)
        return made

    def world(self) -> Space:
        """Make a host outside of the cluster that attacks have in mind."""
        return self.host(*WORLD.values())

    def host(self, *addresses: str) -> Space:
        """Make a host outside of the cluster."""
        made = self.rig.net.pod(self.rig.node, *addresses)
        self.after(self.rig.net.remove, made)
        return made

    def after(self, call: Callable[..., object], *arguments: object) -> None:
        """Call something when the class of attacks has ended."""
        self._stack.callback(call, *arguments)

    def wire(self, sender: Space, to: Space | None = None, device: str = "") -> Wire:
        """Return a wire out of a pod, by default to its node. On a bridge ``to`` may be another pod."""
        target = to or self.rig.node
        key = sender.name, f"{target.name} {device}"
        if key not in self._wires:
            self._wires[key] = Wire(sender, target, device or ("eth0" if to else ""))
            self._stack.callback(self._wires[key].close)
        return self._wires[key]

    def ear(self, space: Space, device: str = "eth0") -> Ear:
        """Return an ear at an interface. It hears what arrives from now on."""
        key = f"{space.name} {device}"
        if key not in self._ears:
            self._ears[key] = Ear(space, device)
            self._stack.callback(self._ears[key].close)
        return self._ears[key]

    def volley(self, wire: Wire, ear: Ear, attacks: Iterable[Shot], allowed: Iterable[Shot]) -> Tally:
        """Fire all shots out of a wire, the allowed ones last, and count which arrive at the ear."""
        bad, good = list(attacks), list(allowed)
        for shot in (*bad, *good):
            for packet in shot.packets:
                wire.send(packet, kind=shot.kind)
        through = self.arrived(ear, [shot.mark for shot in bad], [shot.mark for shot in good])
        return Tally(len(bad), through[0], len(good), len(good) - through[1])

    def arrived(self, ear: Ear, attacks: Sequence[bytes], allowed: Sequence[bytes]) -> tuple[int, int]:
        """Return how many marks of both lists arrive, by when the last one that is allowed has."""
        frames: list[bytes] = []

        def is_last(frame: bytes) -> bool:
            frames.append(frame)
            return allowed[-1] in frame

        with suppress(TimeoutError):
            ear.frames_until(is_last, self.patience(_ARRIVAL_S))
        heard = [sum(any(mark in frame for frame in frames) for mark in marks) for marks in (attacks, allowed)]
        return heard[0], heard[1]

    def from_node(self, target: Space, family: int) -> bytes:
        """Send a datagram from the node, which policy never stops. Return its mark."""
        mark = new_mark()
        with open_socket(self.rig.node, family, socket.SOCK_DGRAM) as node:
            node.sendto(mark, (target.address(family), 9))
        return mark

    def close(self) -> None:
        self._stack.close()
        self.rig.reset()


def packet(family: int, source: str, destination: str, protocol: int, body: bytes) -> bytes:
    """Return an IP packet of the family."""
    return (ipv6 if family == 6 else ipv4)(source, destination, protocol, body)


def fragment(
    family: int, ends: tuple[str, str], protocol: int, body: bytes, offset: int, number: int, *, more: bool
) -> bytes:
    """Return a fragment; ``offset`` is in bytes."""
    if family == 4:
        return ipv4(*ends, protocol, body, fragment=more << 13 | offset // 8, number=number)
    return ipv6(*ends, 44, struct.pack("!BBHI", protocol, 0, offset | more, number) + body)


def datagram(family: int, source: str, destination: str, port: int, own: int = 4000) -> Shot:
    """Return one datagram."""
    mark = new_mark()
    return Shot([packet(family, source, destination, 17, udp(port, own, mark))], mark)


def any_number() -> int:
    """Return an identification of fragments that was surely not used lately."""
    return secrets.randbelow(1 << 16)
