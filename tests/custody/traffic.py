"""Connections of every kind between hosts that are in service, each with a five-tuple that is used once."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from netns import GATEWAY_4, Space, open_socket, ping

from tests.custody.ground import BACKENDS, VIPS, Ground
from tests.custody.packets import ICMP, ICMPV6, SCTP
from tests.custody.script import Host
from tests.custody.servers import (
    ANSWERING,
    REFUSING,
    RESETTING,
    UDP_ANSWERING,
    UDP_REFUSING,
    USER_TIMEOUT_MS,
    abort_when_closed,
)

_FIRST_PORT, _PORTS = 20_000, 40_000
"""Source ports. Each is used once from one address to another, by a protocol: an account of minutes needs more
connections than there are ports."""
_FRAGMENTED: Final = 4000
"""Bytes of a datagram that leaves in three fragments."""


class Trip(NamedTuple):
    """One attempt: who sends to which address, and what may be used for it."""

    space: Space
    address: str
    port: Callable[[int], int]
    """Returns the source port for a protocol, or the identifier of an echo."""
    chance: random.Random
    over: threading.Event

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4


class Service:
    """Which hosts may send and be sent to. One that is being used stays in service until it is not."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._used: dict[str, int] = {}
        self._leaving: set[str] = set()

    def enter(self, host: Host) -> None:
        """Take a host into service."""
        with self._changed:
            self._used[host.name] = 0

    def leave(self, host: Host) -> None:
        """Take a host out of service when nothing uses it any more."""
        with self._changed:
            self._leaving.add(host.name)
            self._changed.wait_for(lambda: not self._used[host.name])
            self._leaving.remove(host.name)
            del self._used[host.name]

    @contextlib.contextmanager
    def two(self, chance: random.Random, hosts: dict[str, Host]) -> Iterator[tuple[Host, Host]]:
        """Yield two hosts, which are in service meanwhile."""
        with self._changed:
            names = chance.sample(sorted(set(self._used) - self._leaving), 2)
            for name in names:
                self._used[name] += 1
        try:
            yield hosts[names[0]], hosts[names[1]]
        finally:
            with self._changed:
                for name in names:
                    self._used[name] -= 1
                self._changed.notify_all()


class Traffic:
    """Attempts on threads of their own, until :meth:`stop`."""

    def __init__(self, ground: Ground, service: Service, seed: int, threads: int) -> None:
        self._ground, self._service = ground, service
        self._over, self._lock = threading.Event(), threading.Lock()
        self._ports: defaultdict[tuple[str, str, int], Iterator[int]] = defaultdict(lambda: iter(range(_PORTS)))
        self._alone: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self.made: Counter[str] = Counter()
        """Attempts by kind."""
        self.problem: Exception | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed}/traffic/{number}"),))  # noqa: S311 - a seed
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no attempt, and wait until all have ended."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, chance: random.Random) -> None:
        try:
            while not self._over.wait(chance.uniform(0, 0.02)):
                name = chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
                self._attempt(name, chance)
        except Exception as error:
            self.problem = error
            raise

    def _attempt(self, name: str, chance: random.Random) -> None:
        kind, family = KINDS[name][0], chance.choice((0, 1))
        hosts = {host.name: host for host in self._ground.script.hosts}
        with self._service.two(chance, hosts) as (source, target):
            address, sender, backend = target.addresses[family], source, target
            if name in _ROUTED:
                chosen = chance.choice(list(BACKENDS))
                address, backend = VIPS[chosen][family], hosts[BACKENDS[chosen]]
                sender = backend if name == "own service" else source
            if not sender.is_pod and (name in _ROUTED or not target.is_pod):
                return  # a node sends to pods only, and the world knows no Service
            if target.is_node and name not in _NODE:
                return
            if (sender.is_node or target.is_node) and sender.node != target.node and name not in _ROUTED:
                return  # nothing is captured at a node, so only its own pods know what it sends
            # What is sent to a Service arrives at its backend, as what is sent to that directly.
            own = GATEWAY_4 if sender.is_node and family == 0 else sender.addresses[family]
            ends = own, backend.addresses[family]
            trip = Trip(self._ground.spaces[sender.name], address, lambda protocol: self._port(*ends, protocol),
                        chance, self._over)  # fmt: skip
            # Of pings and fragments there is one at a time, because a record or a fragment does not say of which it is.
            alone = self._alone[sender.addresses[family], address] if name in _ALONE else contextlib.nullcontext()
            with alone, contextlib.suppress(OSError):
                kind(trip)
            with self._lock:
                self.made[name] += 1

    def _port(self, source: str, destination: str, protocol: int) -> int:
        """Return a port that was not used before between two addresses."""
        with self._lock:
            number = next(self._ports[source, destination, protocol], None)
        if number is None:
            raise RuntimeError(f"all ports from {source} to {destination} were used: end the run earlier")
        return _FIRST_PORT + number


# --- kinds


def _tcp(trip: Trip, port: int, timeout_s: float, messages: int, pause_s: float = 0.0, *, abort: bool = False) -> None:
    with open_socket(trip.space, trip.family, socket.SOCK_STREAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        if abort:
            abort_when_closed(client)
        client.bind(("", trip.port(socket.IPPROTO_TCP)))
        client.settimeout(timeout_s)
        client.connect((trip.address, port))
        for number in range(messages):
            client.send(b"%d " % number + os.urandom(trip.chance.randrange(500)))
            if not client.recv(4096) or trip.over.wait(pause_s):
                break


def connection(trip: Trip) -> None:
    """Connect, exchange some messages and close."""
    _tcp(trip, trip.chance.choice(ANSWERING), trip.chance.choice((0.3, 0.3, 1.5)), trip.chance.randrange(1, 6))


def long_connection(trip: Trip) -> None:
    """Connect, and exchange messages for some seconds, while policies change."""
    _tcp(trip, ANSWERING[0], 1.0, 200, trip.chance.choice((0.01, 0.05)), abort=True)


def refused(trip: Trip) -> None:
    """Connect to a port that has no listener."""
    _tcp(trip, REFUSING, 0.3, 0)


def reset(trip: Trip) -> None:
    """Connect to a server that resets."""
    _tcp(trip, RESETTING, 0.3, 1)


def service(trip: Trip) -> None:
    """Connect to a Service."""
    _tcp(trip, 80, 0.3, trip.chance.randrange(1, 4))


def _datagrams(trip: Trip, port: int, count: int, size: int = 100, pause_s: float = 0.005) -> None:
    with open_socket(trip.space, trip.family, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("", trip.port(socket.IPPROTO_UDP)))
        client.connect((trip.address, port))
        client.settimeout(0.1)
        for number in range(count):
            with contextlib.suppress(OSError):  # what an ICMP error of an earlier one has left
                client.send(b"%d " % number + os.urandom(size))
            if trip.over.wait(pause_s):
                break
        with contextlib.suppress(OSError):
            client.recv(9000)


def datagrams(trip: Trip) -> None:
    """Send some datagrams, which are answered."""
    _datagrams(trip, trip.chance.choice(UDP_ANSWERING), trip.chance.randrange(1, 20))


def many_datagrams(trip: Trip) -> None:
    """Send datagrams for some seconds, while policies change."""
    _datagrams(trip, trip.chance.choice(UDP_ANSWERING), 300, pause_s=0.01)


def refused_datagrams(trip: Trip) -> None:
    """Send datagrams to a port that has no listener, so that ICMP errors come back."""
    _datagrams(trip, UDP_REFUSING, 2, pause_s=0.02)


def fragmented(trip: Trip) -> None:
    """Send a datagram that leaves in fragments."""
    _datagrams(trip, UDP_ANSWERING[0], 1, _FRAGMENTED)


def datagrams_to_a_service(trip: Trip) -> None:
    """Send datagrams to a Service."""
    _datagrams(trip, 90, 3)


def echo(trip: Trip) -> None:
    """Ping, once."""
    ping(trip.space, trip.address, 0.2, trip.port(ICMPV6 if trip.family == 6 else ICMP))


def sctp(trip: Trip) -> None:
    """Send the first packet of an SCTP association; kernels without SCTP answer by an ICMP error."""
    body = struct.pack("!HHII", trip.port(SCTP), 7001, 0, 0) + bytes([1, 0, 0, 20]) + os.urandom(16)
    with open_socket(trip.space, trip.family, socket.SOCK_RAW, SCTP) as raw:
        raw.sendto(body, (trip.address, 0))
    time.sleep(0.02)


KINDS: Final[dict[str, tuple[Callable[[Trip], None], float]]] = {
    "connection": (connection, 8), "long connection": (long_connection, 1), "refused": (refused, 3),
    "reset": (reset, 3), "service": (service, 3), "own service": (service, 0.5), "datagrams": (datagrams, 5),
    "many datagrams": (many_datagrams, 1), "refused datagrams": (refused_datagrams, 2), "fragments": (fragmented, 2),
    "datagrams to a service": (datagrams_to_a_service, 2), "ping": (echo, 3), "sctp": (sctp, 2),
}  # fmt: skip
"""All kinds, and how often each is chosen."""
_ROUTED: Final = {"service", "own service", "datagrams to a service"}
"""Kinds that go to a Service."""
_NODE: Final = {"refused", "refused datagrams", "ping"}
_ALONE: Final = {"fragments", "ping"}
