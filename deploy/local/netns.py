"""Nodes, pods and outside hosts as network namespaces with veth pairs: the demo and the tests send real packets.

A pod is connected to its node as the CNI plugin ptp does it: the node has a route to each of the pod's addresses over
the host's end of a veth pair, and the pod has a link-local gateway. All namespaces have random names;
:meth:`Net.close` removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from netlink_lines import change_of

T = TypeVar("T")

GATEWAY_4 = "169.254.1.1"
GATEWAY_6 = "fe80::1"
_FOLDER: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_MS_BIND, _MNT_DETACH = 0x1000, 2
PATIENCE_S: Final = 60.0
"""For an answer that must come: a busy machine is slow, and TCP and neighbour discovery repeat what was lost late."""
MOMENT_S: Final = 0.4
"""For an answer that must not come: less than a repetition takes."""
_KERNEL: Final = ctypes.CDLL(None, use_errno=True)


@dataclass
class Space:
    """A network namespace that stands for a node, a pod or an outside host."""

    name: str
    addresses: tuple[str, ...] = ()
    link: str = ""
    """A pod's: the name of the host's end of its veth pair, in the node's namespace."""
    index: int = 0
    """A pod's: the interface index of the host's end, in the node's namespace."""

    @property
    def path(self) -> Path:
        return _FOLDER / self.name

    def address(self, family: int) -> str:
        """Return the first address of family 4 or 6."""
        return next(a for a in self.addresses if (":" in a) == (family == 6))


@dataclass
class Net:
    """The namespaces of one test, or of the demo."""

    prefix: str = field(default_factory=lambda: f"wt{secrets.token_hex(6)}")
    spaces: list[Space] = field(default_factory=list)
    _made: int = 0

    def node(self, addresses: Sequence[str] = ("192.0.2.1", "2001:db8:1::1"), name: str = "node") -> Space:
        """Make a node: forwarding is on, and its addresses are on the loopback interface."""
        node = self._space(name, tuple(addresses))
        sysctl(node, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        ip(node, "link set lo up", *(f"addr add {a}/{_bits(a)} dev lo" for a in addresses))
        return node

    def pod(self, node: Space, *addresses: str, name: str = "") -> Space:
        """Make a pod, or with addresses that are not the cluster's an outside host, on a veth pair of the node."""
        self._made += 1
        pod = self._space(name or f"p{self._made}", addresses)
        pod.link = f"v{self._made}"
        ip(node, f"link add {pod.link} type veth peer name eth0 netns {pod.name}")
        # Without duplicate address detection, which would delay the first packet by two seconds.
        sysctl(node, f"net.ipv6.conf.{pod.link}.accept_dad=0")
        sysctl(pod, "net.ipv6.conf.eth0.accept_dad=0")
        ip(
            node,
            f"link set {pod.link} up",
            f"addr add {GATEWAY_4}/32 dev {pod.link}",
            f"addr add {GATEWAY_6}/64 dev {pod.link} nodad",
            *(f"route add {a}/{_bits(a)} dev {pod.link}" for a in addresses),
        )
        ip(
            pod,
            "link set lo up",
            "link set eth0 up",
            *(f"addr add {a}/{_bits(a)} dev eth0{' nodad' if ':' in a else ''}" for a in addresses),
            f"route add {GATEWAY_4} dev eth0",
            f"route add default via {GATEWAY_4} dev eth0",
            f"route add default via {GATEWAY_6} dev eth0",
        )
        pod.index = run_in(node, lambda: socket.if_nametoindex(pod.link))
        return pod

    def remove(self, space: Space) -> None:
        """Delete a namespace and what is in it.

        Its veth pair is deleted first, because the kernel cleans up a namespace's links some time after the deletion.
        """
        with contextlib.suppress(OSError):
            if space.link:
                ip(space, "link del eth0")
        with contextlib.suppress(OSError):
            _KERNEL.umount2(bytes(space.path), _MNT_DETACH)
            space.path.unlink()
        self.spaces.remove(space)

    def close(self) -> None:
        """Delete every namespace that was made here."""
        for space in list(reversed(self.spaces)):
            self.remove(space)

    def _space(self, name: str, addresses: tuple[str, ...]) -> Space:
        space = Space(f"{self.prefix}-{name}", addresses)
        # A folder that is mounted on itself, which Path.is_mount does not see.
        if f" {_FOLDER} " in Path("/proc/self/mountinfo").read_text():
            _on_a_thread(lambda: _make(space.path))
        else:  # the first on this machine: ip also mounts the folder
            subprocess.run(["ip", "netns", "add", space.name], check=True)
        self.spaces.append(space)
        return space


def ip(space: Space, *lines: str) -> None:
    """Run commands of iproute2's ip, one in each line, in a namespace. Raises OSError or CalledProcessError."""
    changes = [change_of(line) for line in lines]
    if None not in changes:
        run_in(space, lambda: [change() for change in changes if change])
        return
    subprocess.run(["ip", "-n", space.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def sysctl(space: Space, *lines: str) -> None:
    """Set kernel parameters of a namespace, "name=value" as sysctl takes them: a slash in a name stands for a dot."""

    def write() -> None:
        for line in lines:
            name, _, value = line.partition("=")
            Path("/proc/sys", name.translate(str.maketrans("./", "/."))).write_text(value)

    run_in(space, write)


def run(space: Space, *command: str) -> str:
    """Run a program in a namespace and return its output. Raises RuntimeError if it fails."""
    done = subprocess.run(
        ["nsenter", f"--net={space.path}", *command], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


def run_in(space: Space, call: Callable[[], T]) -> T:
    """Call a function on a new thread in the namespace. Sockets that it opens stay in that namespace."""

    def work() -> T:
        descriptor = os.open(space.path, os.O_RDONLY)
        try:
            _checked(_KERNEL.setns(descriptor, _CLONE_NEWNET), "setns")
        finally:
            os.close(descriptor)
        return call()

    return _on_a_thread(work)


def _on_a_thread(call: Callable[[], T]) -> T:
    """Call a function on a new thread, which may leave its network namespace, and return or raise what it does."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _make(path: Path) -> None:
    """Make a network namespace, which the calling thread enters, and keep it by a name, as ``ip netns add`` does."""
    path.touch(mode=0, exist_ok=False)
    try:
        _checked(_KERNEL.unshare(_CLONE_NEWNET), "unshare")
        _checked(
            _KERNEL.mount(b"/proc/thread-self/ns/net", bytes(path), b"none", ctypes.c_ulong(_MS_BIND), None), "mount"
        )
    except OSError:
        path.unlink()
        raise


def _checked(result: int, call: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


def open_socket(space: Space, family: int, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    """Return a patient socket in the namespace; ``family`` is 4 or 6."""
    made = run_in(space, lambda: socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind, protocol))
    made.settimeout(PATIENCE_S)
    return made


def listen(space: Space, family: int, port: int) -> socket.socket:
    """Return a listening TCP socket on all of the namespace's addresses of a family."""
    server = open_socket(space, family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("::" if family == 6 else "0.0.0.0", port))  # noqa: S104 - a namespace of the test's own
    server.listen(64)
    return server


def connects(source: Space, address: str, port: int, patience_s: float = PATIENCE_S) -> bool:
    """Return whether a TCP connection is established, by the first SYN or by a later one.

    For what policy allows: only a failure takes all the patience. Ask :func:`gets_no_answer` about what it denies.
    Raises ConnectionRefusedError if the server refuses it, as no policy does.
    """
    deadline = time.monotonic() + patience_s
    while (left := deadline - time.monotonic()) > 0:
        with open_socket(source, 6 if ":" in address else 4, socket.SOCK_STREAM) as client:
            client.settimeout(left)
            try:
                client.connect((address, port))
            except TimeoutError:
                return False
            except OSError as error:
                # Nobody answered neighbour discovery for three seconds. Its next question may be answered.
                if error.errno != errno.EHOSTUNREACH:
                    raise
                time.sleep(0.1)
            else:
                return True
    return False


def gets_no_answer(source: Space, address: str, port: int) -> bool:
    """Return whether a moment passes and no TCP connection is established, as policy denies it."""
    return not connects(source, address, port, MOMENT_S)


def connects_exactly_if(allowed: bool, source: Space, address: str, port: int) -> bool:
    """Return whether a TCP connection is established if it is allowed, and gets no answer otherwise."""
    return (connects if allowed else gets_no_answer)(source, address, port)


def _bits(address: str) -> int:
    return 128 if ":" in address else 32


def ping(source: Space, address: str, patience_s: float = PATIENCE_S, identifier: int | None = None) -> bool:
    """Return whether one ICMP or ICMPv6 echo request, by default of a random identifier, is answered. Give it a moment
    where policy denies it."""
    six = ":" in address
    identifier = secrets.randbelow(1 << 16) if identifier is None else identifier
    body = struct.pack("!BBHHH", 128 if six else 8, 0, 0, identifier, 1) + b"kubeweir"
    if not six:
        # On raw sockets the kernel computes the checksum of ICMPv6, which covers the addresses, but not that of ICMP.
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    with open_socket(source, 6 if six else 4, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else 1) as raw:
        raw.settimeout(patience_s)
        raw.sendto(body, (address, 0))
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            try:
                answer = raw.recv(2048)
            except TimeoutError:
                return False
            answer = answer if six else answer[(answer[0] & 15) * 4 :]
            if answer[0] == (129 if six else 0) and struct.unpack_from("!H", answer, 4)[0] == identifier:
                return True
    return False


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of the data."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
