"""A takeover with another table of connections: answers of a connection to a Service that was dialled meanwhile.

The pod's hook and the exit that judges the connection then belong to two generations, which share no connections.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from netns import MOMENT_S, PATIENCE_S, Space, gets_no_answer, listen, open_socket

from probe.kernel.layout import BACKEND
from tests.kernel.rig import Rig, both, of
from tests.kernel.site import VIP, Site, service
from tests.kernel.stepping import Killed
from tests.kernel.takeover import restart
from tests.waiting import until

pytestmark = pytest.mark.kernel

Backend = Literal["local", "remote"]
_RETRANSMISSIONS_AT, _RETRANSMISSIONS = 100, 4
"""The place and size of ``tcpi_total_retrans`` in the kernel's ``struct tcp_info``."""
_PORT = 8080


class _Cluster:
    """A client, a Service with one backend, and a takeover that has moved the interfaces of one end."""

    def __init__(self, rig: Rig, backend: Backend, moved: str) -> None:
        self.rig, self.site = rig, Site(rig, "routed")
        rig.services += VIP.values()
        # A probe moves the interfaces of pods in this sequence, and other devices after them.
        names = ["a/client", "a/server"] if moved == "client" else ["a/server", "a/client"]
        made = {name: both(rig, name, number) for number, name in enumerate(names, 1)}
        self.client = made["a/client"]
        self.server: Space = made["a/server"] if backend == "local" else self.site.remote
        rig.elsewhere("a/far", *self.site.remote.addresses)

    def allow(self, *apps: str) -> None:
        """Let the client reach these apps only, and nobody the client."""
        peers = [{"podSelector": {"matchLabels": {"app": app}}} for app in apps]
        ports = [{"port": _PORT, "protocol": protocol} for protocol in ("TCP", "UDP")]
        rules = [{"to": peers, "ports": ports}] if apps else []
        selector = {"matchLabels": {"app": "client"}}
        self.rig.policy("a/out", podSelector=selector, policyTypes=["Egress", "Ingress"], egress=rules)
        self.rig.apply()

    def serve(self, family: int) -> None:
        """Have the Service lead to the backend."""
        protocols = ("tcp", "udp")
        self.site.proxy(*(service(family, self.server, to=_PORT, protocol=one) for one in protocols))

    def move_one_end(self) -> None:
        """Start a takeover with a larger table of connections, and kill it when one interface is moved."""
        restart(self.rig, CONNECTIONS=1 << 17)
        attach = self.rig.attachments.attach

        def once(index: int, *, bound: bool = False) -> bool:
            attach(index, bound=bound)
            raise Killed

        self.rig.attachments.attach = once  # type: ignore[method-assign]
        with pytest.raises(Killed):
            self.rig.apply()

    def asks(self, family: int, patience_s: float = PATIENCE_S) -> bool:
        """Return whether a datagram to the Service is answered."""
        with (
            open_socket(self.client, family, socket.SOCK_DGRAM) as out,
            open_socket(self.server, family, socket.SOCK_DGRAM) as served,
        ):
            served.bind(("", _PORT))
            served.settimeout(patience_s)
            out.settimeout(patience_s)
            out.sendto(b"question", (VIP[family], 80))
            try:
                _, peer = served.recvfrom(64)
                served.sendto(b"answer", peer)
                return out.recv(64) == b"answer"
            except TimeoutError:
                return False

    def connects_at_once(self, family: int) -> bool:
        """Return whether the first SYN to the Service is answered, however late."""
        with listen(self.server, family, _PORT), open_socket(self.client, family, socket.SOCK_STREAM) as out:
            out.connect((VIP[family], 80))
            info = out.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMISSIONS_AT + _RETRANSMISSIONS)
        return not any(info[_RETRANSMISSIONS_AT:])

    def gets_no_answer(self, family: int) -> bool:
        """Return whether policy keeps the client from the Service, by TCP and by UDP."""
        with listen(self.server, family, _PORT):
            return gets_no_answer(self.client, VIP[family], 80) and not self.asks(family, MOMENT_S)


@pytest.fixture
def cluster(own: Rig, backend: Backend, moved: str) -> Iterator[_Cluster]:
    made = _Cluster(own, backend, moved)
    yield made
    made.site.close()


_CASES = [
    ("tcx", "local", "client", 4),
    ("tcx", "local", "server", 6),
    ("tcx", "remote", "client", 6),
    ("clsact", "local", "server", 4),
    ("clsact", "remote", "client", 4),
]


@pytest.mark.parametrize(("own", "backend", "moved", "family"), _CASES, indirect=["own"])
def test_a_service_dialled_during_a_takeover_answers_at_once(cluster: _Cluster, backend: Backend, family: int) -> None:
    cluster.serve(family)
    cluster.allow("server", "far")
    cluster.move_one_end()
    assert cluster.connects_at_once(family)
    assert cluster.asks(family)
    # The exit has logged each; the answer, which the other generation has judged, is not logged again.
    allowed = of(cluster.rig.seen(), subject="a/client", direction="egress", verdict="allow")
    assert [(row.port, row.dialled) for row in allowed] == [(_PORT, VIP[family])] * 2


@pytest.mark.parametrize(("own", "backend", "moved", "family"), _CASES[1:3], indirect=["own"])
def test_a_backend_that_is_denied_is_not_reached(cluster: _Cluster, family: int) -> None:
    cluster.serve(family)
    cluster.allow()
    cluster.move_one_end()
    assert cluster.gets_no_answer(family)
    assert not of(cluster.rig.seen(), subject="a/client", verdict="allow")


@pytest.mark.parametrize(("own", "backend", "moved", "family"), [("tcx", "local", "client", 4)], indirect=["own"])
def test_an_answer_of_another_backend_is_not_taken_for_the_admitted_ones(cluster: _Cluster, family: int) -> None:
    rig, server = cluster.rig, cluster.server
    other = both(rig, "a/other", 7)
    cluster.serve(family)
    cluster.allow("server")
    cluster.move_one_end()
    with (
        open_socket(cluster.client, family, socket.SOCK_DGRAM) as out,
        open_socket(server, family, socket.SOCK_DGRAM) as served,
        open_socket(other, family, socket.SOCK_DGRAM) as hostile,
    ):
        out.bind(("", 4000))
        for one in (served, hostile):
            one.bind(("", _PORT))
        out.sendto(b"question", (VIP[family], 80))
        _, peer = served.recvfrom(64)
        # The Service leads to another backend now, to which the exit does not let the next packet pass.
        cluster.site.proxy(service(family, other, to=_PORT, protocol="udp"))
        cluster.site.forget_flows()
        out.sendto(b"question", (VIP[family], 80))
        until(lambda: of(rig.seen(), subject="a/client", verdict="deny", port=_PORT))
        out.settimeout(MOMENT_S)
        hostile.sendto(b"answer", peer)
        with pytest.raises(TimeoutError):
            out.recv(64)


@dataclass
class _Dialogue:
    """Datagrams of the client to the Service, and the server's to where they came from."""

    cluster: _Cluster
    family: int
    out: socket.socket
    served: socket.socket

    def leave_backend(self, later_ns: int) -> None:
        """Leave the server as an exit leaves a backend that it admits, so much later than the client's last packet."""
        maps, server = self.cluster.rig.maps, self.cluster.server
        keys, values = maps["connections"].entries()
        (at,) = np.flatnonzero((keys["remote_port"] == 80) & (values["direction"] == 0))
        address = ipaddress.ip_address(server.address(self.family))
        mapped = address.packed if self.family == 6 else bytes(10) + b"\xff\xff" + address.packed
        backend = np.zeros((), BACKEND)
        backend["address"] = np.frombuffer(mapped, np.uint8)
        backend["port"], backend["time_ns"] = _PORT, int(values["last_ns"][at]) + later_ns
        maps["backends"].set(keys[at].tobytes(), backend.tobytes())

    def is_answered(self, patience_s: float) -> bool:
        """Return whether a datagram of the server reaches the client."""
        self.out.settimeout(patience_s)
        self.served.sendto(b"answer", (self.cluster.client.address(self.family), 4000))
        try:
            return self.out.recv(64) == b"answer"
        except TimeoutError:
            return False


@pytest.fixture
def dialogue(cluster: _Cluster, family: int) -> Iterator[_Dialogue]:
    cluster.serve(family)
    with (
        open_socket(cluster.client, family, socket.SOCK_DGRAM) as out,
        open_socket(cluster.server, family, socket.SOCK_DGRAM) as served,
    ):
        out.bind(("", 4000))
        served.bind(("", _PORT))
        yield _Dialogue(cluster, family, out, served)


_OF_CLIENT = [("tcx", "local", "client", 4), ("clsact", "local", "client", 6)]


@pytest.mark.parametrize(("own", "backend", "moved", "family"), _OF_CLIENT, indirect=["own"])
def test_what_an_exit_has_admitted_is_judged_by_the_generation_of_the_client(dialogue: _Dialogue) -> None:
    """An exit that still has an older policy has admitted a backend that the client's generation denies."""
    cluster = dialogue.cluster
    cluster.allow()
    cluster.move_one_end()
    dialogue.out.sendto(b"question", (VIP[dialogue.family], 80))
    (asked,) = of(cluster.rig.seen(), subject="a/client", direction="egress")
    assert asked.verdict == "deny", "the exit's generation denies it, too"
    dialogue.leave_backend(1)
    assert not dialogue.is_answered(MOMENT_S)
    (answered,) = of(cluster.rig.seen(), subject="a/client")
    assert (answered.direction, answered.verdict, answered.port) == ("egress", "deny", _PORT)
    assert answered.dialled == VIP[dialogue.family]


@pytest.mark.parametrize(("own", "backend", "moved", "family"), _OF_CLIENT, indirect=["own"])
@pytest.mark.parametrize(("later_ns", "answered"), [(0, True), (-1, False)])
def test_a_backend_that_was_left_before_the_clients_last_packet_is_not_taken(
    dialogue: _Dialogue, later_ns: int, answered: bool
) -> None:
    dialogue.cluster.allow("server")
    dialogue.cluster.move_one_end()
    dialogue.out.sendto(b"question", (VIP[dialogue.family], 80))
    dialogue.served.recvfrom(64)
    dialogue.leave_backend(later_ns)
    assert dialogue.is_answered(PATIENCE_S if answered else MOMENT_S) == answered
