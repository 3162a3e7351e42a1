"""A node with policies in force, and frames on which its kernel programs are run by BPF_PROG_RUN.

The maps have the sizes of the probe's default settings, except that of denied flows, and contain the addresses of many
pods on other nodes, so that a lookup costs as much as in a cluster. Two pods have real veth pairs, because the programs
find an endpoint by its interface.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from netns import Net, run_in

from enrich.model import Pod
from enrich.parse.objects import parse
from probe.kernel import bpf
from probe.kernel.ends_layout import ENDS
from probe.kernel.layout import Config
from probe.settings import Settings
from probe.sizing import PODS, chosen
from tests.kernel.frames import extension, ipv4, ipv6
from tests.kernel.rig import Rig, both

T = TypeVar("T")

PASS: Final = 0xFFFFFFFF
"""TC_ACT_UNSPEC."""
DROP: Final = 2
"""TC_ACT_SHOT."""
OPEN_PORT: Final = 8080
CLOSED_PORT: Final = 9999
_WEB: Final = {4: "10.244.0.10", 6: "fd44::a"}
_API: Final = {4: "10.244.0.20", 6: "fd44::14"}
WORLD: Final = {4: "203.0.113.9", 6: "2001:db8:f::9"}
"""An outside address to which web may connect. Its packets are checked again where they leave the node."""
_APPS: Final = 20
_ETHERNET: Final = bytes(12)
_REQUESTED: Final = {**Settings().sizes(), "DENIED_FLOWS": 1 << 17}
"""A pod may have half of the denied flows, and all those of a run are web's within one deny window."""
_SKB_BYTES: Final = 192
_LOOPBACK: Final = 1
_PROG_LOAD: Final = 5
_SYN, _ACK = 0x02, 0x10


class Node:
    """A rig with its policies in force."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._context = bytearray(_SKB_BYTES)
        self._context_at_exit = bytearray(_SKB_BYTES)
        # struct __sk_buff: ingress_ifindex at 36, ifindex at 40.
        index = rig.pods["shop/web"].index
        struct.pack_into("=II", self._context, 36, 0, index)
        struct.pack_into("=II", self._context_at_exit, 36, index, _LOOPBACK)

    def inside(self, call: Callable[[], T]) -> T:
        """Call a function in the node's network namespace, where BPF_PROG_RUN looks up the interface."""
        return run_in(self.rig.node, call)

    def run(self, frame: bytes, repeat: int = 1, program: int | None = None) -> tuple[int, int]:
        """Run the egress program (or another) on a frame from web; return its verdict and the mean nanoseconds."""
        program = self.rig.maps.programs["pod_egress"] if program is None else program
        frame = self.rig.own_frame(self.rig.pods["shop/web"].index, frame)
        return bpf.program_run(program, frame, repeat, bytes(self._context))

    def run_exit(self, frame: bytes) -> tuple[int, int]:
        """Run the program of a device that is not a pod's on a frame from web, once; as :meth:`run`."""
        return bpf.program_run(self.rig.maps.programs["exit_ethernet"], frame, 1, bytes(self._context_at_exit))


@contextlib.contextmanager
def make_node(folder: Path, other_pods: int, *, ends: bool = False) -> Iterator[Node]:
    """Make a node for the block. Namespaces, links and pins are removed at its end, also if making the node fails.

    ``ends``: with WEIR_ENDS=1."""
    net = Net()
    pins = Path("/sys/fs/bpf") / f"weir-bench-{'ends-' if ends else ''}{os.getpid()}"
    sizes = chosen(_REQUESTED, PODS, 1 << 40, ())
    try:
        rig = Rig(folder, "tcx", pins=pins, net=net, sizes={**sizes, ENDS: 1} if ends else sizes)
        try:
            _add_pods_and_policies(rig, other_pods)
            yield Node(rig)
        finally:
            rig.close()
    finally:
        net.close()
        shutil.rmtree(pins, ignore_errors=True)


def _add_pods_and_policies(rig: Rig, other_pods: int) -> None:
    """Add the pods and policies and install them."""
    both(rig, "shop/web", 10)
    both(rig, "shop/api", 20, labels={"app": "app-0"})
    for number in range(other_pods):
        pod = _pod_of_another_node(number)
        rig.others[pod.key] = pod
    for app in range(_APPS):
        peer = [{"podSelector": {"matchLabels": {"app": f"app-{app}"}}}]
        ports = [{"protocol": protocol, "port": OPEN_PORT + app} for protocol in ("TCP", "UDP")]
        rig.policy(f"shop/web-to-{app}", podSelector={"matchLabels": {"app": "web"}}, policyTypes=["Egress"],
                   egress=[{"to": peer, "ports": ports}])  # fmt: skip
    blocks = [{"ipBlock": {"cidr": f"{address}/{bits}"}} for address, bits in ((WORLD[4], 32), (WORLD[6], 128))]
    rig.policy("shop/web-to-world", podSelector={"matchLabels": {"app": "web"}}, policyTypes=["Egress"],
               egress=[{"to": blocks}])  # fmt: skip
    rig.apply()
    # A budget that is never used up: first denies past the budget would be counted without an event in the ring.
    rig.maps.configure(Config.POD_DENIED_FLOWS, 1 << 40)
    # At its limit, a pod's new connection costs more, because it evicts another one.
    rig.maps.configure(Config.POD_CONNECTIONS, Settings().pod_connections)
    rig.drain()


@contextlib.contextmanager
def empty_program() -> Iterator[int]:
    """Load a program that does nothing and yield its descriptor: running it shows what BPF_PROG_RUN itself costs."""
    # r0 = 0; exit (BPF_ALU64 | BPF_MOV | BPF_K, BPF_JMP | BPF_EXIT), as BPF_PROG_TYPE_SCHED_CLS.
    code = ctypes.create_string_buffer(bytes([0xB7, *bytes(7), 0x95, *bytes(7)]), 16)
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("=IIQQ24x", 3, 2, ctypes.addressof(code), ctypes.addressof(licence))
    program, _ = bpf._bpf(_PROG_LOAD, attributes, "PROG_LOAD")
    try:
        yield program
    finally:
        os.close(program)


def _pod_of_another_node(number: int) -> Pod:
    """Return a pod of another node with an IPv4 and an IPv6 address."""
    addresses = [str(ipaddress.ip_address("10.245.0.0") + number), str(ipaddress.ip_address("fd45::") + number)]
    pod = parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "shop", "name": f"o{number}", "labels": {"app": f"app-{number % _APPS}"}},
            "spec": {"nodeName": "n2", "containers": [{"name": "c"}]},
            "status": {"podIPs": [{"ip": address} for address in addresses], "phase": "Running"},
        }
    )
    assert isinstance(pod, Pod)
    return pod


def syn(family: int, source_port: int, port: int, sequence: int = 0, to: str = "") -> bytes:
    """Return web's first packet of a connection to api or ``to``. Another sequence number is another connection."""
    return _frame(family, _segment(source_port, port, sequence, _SYN), to)


def ack(family: int, source_port: int, port: int, to: str = "") -> bytes:
    """Return a packet of an established connection."""
    return _frame(family, _segment(source_port, port, 1, _ACK), to)


def ack_with_options(family: int, source_port: int, port: int) -> bytes:
    """Return one with IPv4 options or an IPv6 extension header, which the fast path (bpf/recent.h) does not accept."""
    segment = _segment(source_port, port, 1, _ACK)
    if family == 4:
        return _ETHERNET + b"\x08\x00" + ipv4(_WEB[4], _API[4], 6, segment, options=b"\x01" * 4)
    return _ETHERNET + b"\x86\xdd" + ipv6(_WEB[6], _API[6], 60, extension(6) + segment)


def arp() -> bytes:
    """Return an ARP packet, which passes before any policy lookup: the least work that the program does."""
    probe = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return _ETHERNET + b"\x08\x06" + probe + bytes(46 - len(probe))


def _segment(source_port: int, port: int, sequence: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, flags, 65535, 0, 0)


def _frame(family: int, segment: bytes, to: str) -> bytes:
    if family == 4:
        return _ETHERNET + b"\x08\x00" + ipv4(_WEB[4], to or _API[4], 6, segment)
    return _ETHERNET + b"\x86\xdd" + ipv6(_WEB[6], to or _API[6], 6, segment)
