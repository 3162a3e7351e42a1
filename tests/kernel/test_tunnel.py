"""The way out by a device without link headers: a real tun device, whose packets begin with IP."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterator

import msgspec
import pytest
from netns import PATIENCE_S, Space, ip, open_socket, run_in, sysctl

from tests.kernel.rig import FAMILIES, Rig, Seen, both, of
from tests.kernel.site import VIP, Site
from tests.waiting import until

pytestmark = pytest.mark.kernel

FAR = {4: "10.244.2.9", 6: "fd46::9"}
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
"""linux/if_tun.h: IP packets, without a header of the device's own."""


class Tunnel:
    """A device of the node's behind which are pods of another node: what leaves by it can be read."""

    def __init__(self, node: Space) -> None:
        self._file = run_in(node, self._make)
        sysctl(node, "net.ipv6.conf.far0.accept_dad=0")
        ip(node, "link set far0 up", *(f"route add {address} dev far0" for address in FAR.values()))

    @staticmethod
    def _make() -> int:
        made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(made, _TUNSETIFF, struct.pack("16sH22x", b"far0", _IFF_TUN | _IFF_NO_PI))
        return made

    def left(self, family: int, marks: list[bytes], seconds: float = PATIENCE_S) -> list[bytes]:
        """Which of the marks left by it, in order, up to the last one of the list."""
        found: list[bytes] = []
        deadline = time.monotonic() + seconds
        while marks[-1] not in found:
            assert select.select([self._file], [], [], max(deadline - time.monotonic(), 0))[0], found
            packet = os.read(self._file, 65535)
            if packet[0] >> 4 == family:
                found += [mark for mark in marks if packet.endswith(mark)]
        return found

    def close(self) -> None:
        """The device goes with its file."""
        os.close(self._file)


@pytest.fixture
def tunnel(rig: Rig) -> Iterator[Tunnel]:
    made = Tunnel(rig.node)
    rig.elsewhere("a/far", *FAR.values())
    yield made
    made.close()


@pytest.fixture
def site(rig: Rig) -> Iterator[Site]:
    made = Site(rig, "routed")
    rig.services += VIP.values()
    yield made
    made.close()


def _send(pod: Space, family: int, address: str, port: int, mark: bytes) -> None:
    with contextlib.closing(open_socket(pod, family, socket.SOCK_DGRAM)) as sender:
        sender.sendto(mark, (address, port))


def _allow(rig: Rig, port: int) -> None:
    """The client may reach the far pod's port, and nothing else."""
    to = [{"podSelector": {"matchLabels": {"app": "far"}}}]
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"],
               egress=[{"to": to, "ports": [{"port": port, "protocol": "UDP"}]}])  # fmt: skip
    rig.apply()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_service_behind_a_tunnel_is_judged_there(site: Site, tunnel: Tunnel, family: int) -> None:
    """Of an address that DNAT has yet to turn into a pod's, nothing but the hook at the tunnel can decide."""
    rig = site.rig
    client = both(rig, "a/client", 1)
    name, target = ("ip6", f"[{FAR[6]}]") if family == 6 else ("ip", FAR[4])
    site.proxy(*(f"{name} daddr {VIP[family]} udp dport {port} dnat {name} to {target}:{port + 8000}"
                 for port in (80, 90)))  # fmt: skip
    _allow(rig, 8080)
    (device,) = (device for device in rig.network.devices() if device.name == "far0")
    assert rig.attachments._is_first(device.index, "exit_tunnel", "egress")
    for mark, port in ((b"denied", 90), (b"allowed", 80)):
        _send(client, family, VIP[family], port, mark)
    assert tunnel.left(family, [b"denied", b"allowed"]) == [b"allowed"]
    rows = of(rig.seen(), subject="a/client", dialled=VIP[family])
    assert [(row.direction, row.verdict, row.destination, row.port, row.dialled_port) for row in rows] == [
        ("egress", "deny", FAR[family], 8090, 90),
        ("egress", "allow", FAR[family], 8080, 80),
    ]
    _allow(rig, 8090)
    for mark, port in ((b"cut", 80), (b"mended", 90)):
        _send(client, family, VIP[family], port, mark)
    assert tunnel.left(family, [b"cut", b"mended"]) == [b"mended"]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_judged_at_the_pod_passes_the_tunnel(rig: Rig, tunnel: Tunnel, family: int) -> None:
    client = both(rig, "a/client", 1)
    rig.apply()
    _send(client, family, FAR[family], 53, b"to a pod")
    assert tunnel.left(family, [b"to a pod"]) == [b"to a pod"]
    assert [(row.verdict, row.destination) for row in of(rig.seen(), port=53)] == [("allow", FAR[family])]


def _collect(rig: Rig, rows: list[Seen]) -> bool:
    rows += of(rig.seen(), port=53)
    return bool(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_successor_is_not_the_last_pod_at_the_tunnel(rig: Rig, tunnel: Tunnel, family: int) -> None:
    """The kernel is asked by the tunnel's own hook whether the last pod's interface is there."""
    client = both(rig, "a/client", 1)
    rig.apply()
    rig.net.remove(rig.pods.pop("a/client"))
    successor = rig.pods["a/successor"] = rig.connect(rig.node, *client.addresses)
    _send(successor, family, FAR[family], 53, b"not yet")
    # A new veth pair drops packets until the kernel's link watch has activated it. On a busy machine that can be the
    # pod's first ARP request or neighbour solicitation; the datagram then waits in the pod for the next one, a second
    # later. It must leave the pod, and be judged, before the pod is bound.
    rows: list[Seen] = []
    until(lambda: _collect(rig, rows))
    rig.objects["a/successor"] = msgspec.structs.replace(rig.objects.pop("a/client"), name="successor", uid="another")
    rig.apply()
    _send(successor, family, FAR[family], 53, b"bound")
    assert tunnel.left(family, [b"not yet", b"bound"]) == [b"bound"]
    assert [(row.subject, row.reason) for row in [*rows, *of(rig.seen(), port=53)]] == [
        ("?/?", "no_origin"),
        ("a/successor", "no_policy"),
    ]


def test_a_packet_that_waits_in_its_pod_until_that_is_bound_is_judged_as_its_own(rig: Rig, tunnel: Tunnel) -> None:
    """What counts is when a packet leaves the pod, not when the pod has sent it."""
    client = both(rig, "a/client", 1)
    _allow(rig, 54)
    rig.net.remove(rig.pods.pop("a/client"))
    successor = rig.pods["a/successor"] = rig.connect(rig.node, *client.addresses)
    # The gateway does not answer for its address, and the pod asks again for as long as it takes.
    sysctl(rig.node, f"net.ipv4.conf.{successor.link}.arp_ignore=8")
    sysctl(successor, "net.ipv4.neigh.eth0.mcast_solicit=60")
    _send(successor, 4, FAR[4], 53, b"denied")
    rig.objects["a/successor"] = msgspec.structs.replace(rig.objects.pop("a/client"), name="successor", uid="another")
    rig.apply()
    assert not of(rig.seen(), port=53)
    _send(successor, 4, FAR[4], 54, b"allowed")
    sysctl(rig.node, f"net.ipv4.conf.{successor.link}.arp_ignore=0")
    assert tunnel.left(4, [b"denied", b"allowed"]) == [b"allowed"]
    rows = [row for row in rig.seen() if row.port in {53, 54}]
    assert [(row.subject, row.verdict, row.reason, row.port) for row in rows] == [
        ("a/successor", "deny", "default_deny", 53),
        ("a/successor", "allow", "policy", 54),
    ]
