"""Attacks on moments: while a pod is installed, and while policy is switched."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from netns import Space, open_socket

from probe.kernel.installer import Installer
from probe.kernel.maps import Maps
from tests.attack.ground import Ground, datagram
from tests.attack.tally import Tally, attack
from tests.kernel.frames import Wire
from tests.kernel.rig import FAMILIES, Rig, both
from tests.kernel.stepping import Stepped

_SWITCHES = 10
"""How often a round changes policy under traffic."""


@attack("a new pod during its installation, after each single write")
def installation(ground: Ground) -> Iterator[Tally]:
    """The Admin tier closes the pod to a stranger before and after; its programs are attached, its policy comes."""
    rig = ground.rig
    stranger = both(rig, "a/stranger", 1, labels={"app": "stranger"})
    friend = both(rig, "a/friend", 2)
    strangers = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "stranger"}}}
    denied = [{"action": "Deny", "from": [{"pods": strangers}]}]
    rig.cluster_policy("no-strangers", tier="Admin", priority=1, ingress=denied)
    rig.apply()
    wires = [ground.wire(pod) for pod in (stranger, friend)]
    for number in range(ground.rounds):
        name = f"b/new-{number}"
        new = both(rig, name, 100 + number % 100)
        # A set of its own and a selector that the stranger fits, so that the stranger gets another identity as well.
        stranger_too = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["stranger", f"x{number}"]}]}
        rig.policy(name, podSelector={"matchLabels": {"app": f"new-{number}"}}, policyTypes=["Egress"],
                   egress=[{"to": [{"namespaceSelector": {}, "podSelector": stranger_too}]}])  # fmt: skip
        assert rig.attachments.attach(new.index)
        ear, marks = ground.ear(new), _fired(rig, wires[0], stranger, new)
        good = [datagram(family, friend.address(family), new.address(family), 53) for family in FAMILIES]
        for shot in good:
            wires[1].send(shot.packets[0])
        through, arrived = ground.arrived(ear, marks, [shot.mark for shot in good])
        yield Tally(len(marks), through, len(good), len(good) - arrived)
        rig.net.remove(rig.pods.pop(name))
        del rig.objects[name]
        rig.apply()


def _fired(rig: Rig, wire: Wire, stranger: Space, new: Space) -> list[bytes]:
    """Install while the stranger sends a packet after each write to a map. Return the packets' marks."""
    marks: list[bytes] = []
    families = itertools.cycle(FAMILIES)

    def fire() -> None:
        family = next(families)
        shot = datagram(family, stranger.address(family), new.address(family), 53)
        marks.append(shot.mark)
        wire.send(shot.packets[0])

    fire()
    rig.installer = Installer(cast("Maps", Stepped(rig.maps, fire)))
    try:
        rig.apply()
    finally:
        rig.installer = Installer(rig.maps)
    fire()
    return marks


@dataclass
class _Stream:
    """Datagrams with numbers from one pod to another, sent as fast as a thread can, and which of them arrived."""

    source: Space
    destination: Space
    family: int
    port: int
    sent: int = 0
    arrived: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._in = open_socket(self.destination, self.family, socket.SOCK_DGRAM)
        # SO_RCVBUFFORCE: a full buffer would look like a drop.
        self._in.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
        self._in.bind((self.destination.address(self.family), self.port))
        self._in.settimeout(0.2)
        self._out = open_socket(self.source, self.family, socket.SOCK_DGRAM)
        self._out.connect((self.destination.address(self.family), self.port))
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._stop.wait(0.0005):
            self._out.send(struct.pack("!I", self.sent))
            self.sent += 1

    def _receive(self) -> None:
        while True:
            try:
                self.arrived.add(struct.unpack("!I", self._in.recv(8))[0])
            except TimeoutError:
                if self._stop.is_set():
                    return

    def wait(self, packets: int) -> None:
        """Wait until so many more have been sent."""
        last = self.sent + packets
        while self.sent < last:
            self._stop.wait(0.001)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._in.close()
        self._out.close()


@attack("a connection after its revocation, and another one during every change of policy")
def switches(ground: Ground) -> Iterator[Tally]:
    """What is sent after a revocation is installed must not arrive; what both states allow must, all the time."""
    rig = ground.rig
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)

    def allow(*ports: int) -> None:
        rules = [{"ports": [{"port": port, "protocol": "UDP"} for port in ports]}]
        rig.policy("a/in", podSelector={"matchLabels": {"app": "server"}}, ingress=rules)
        rig.apply()

    install = rig.installer.apply
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        allow(53, 54)
        cut, kept = (_Stream(client, server, family, port) for port in (53, 54))
        denied: set[int] = set()
        first: list[int] = []

        def note(cut: _Stream = cut, first: list[int] = first) -> None:
            # The thread counts a packet when it has sent it, so one more may be on its way.
            first.append(cut.sent + 1)

        try:
            for _ in range(_SWITCHES):
                kept.wait(10)
                setattr(rig.installer, "apply", partial(install, switched=note))  # noqa: B010
                allow(54)
                setattr(rig.installer, "apply", install)  # noqa: B010
                cut.wait(20)
                denied |= set(range(first[-1], cut.sent))
                allow(53, 54)
        finally:
            cut.stop()
            kept.stop()
        yield Tally(len(denied), len(denied & cut.arrived), kept.sent, kept.sent - len(kept.arrived))
