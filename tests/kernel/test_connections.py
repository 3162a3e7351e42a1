"""What is remembered of a connection, and what nobody may make of it: real packets, both families, TCX and clsact."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from netns import MOMENT_S, PATIENCE_S, Space, connects, gets_no_answer, listen, open_socket, ping

from enrich.policy.matching import Direction
from enrich.wire.batch import Reason, Verdict
from probe.kernel.layout import POLICY_ENTRY, Config
from tests.kernel.frames import Wire, icmp, ipv4, ipv6, tcp, udp
from tests.kernel.rig import FAMILIES, Rig, both, of
from tests.kernel.tracking import tracking

pytestmark = pytest.mark.kernel

SYN, ACK, FIN = 2, 16, 1
TO_CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}
TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}


@pytest.fixture
def pods(rig: Rig) -> tuple[Space, Space]:
    return both(rig, "a/client", 1), both(rig, "a/server", 2)


@pytest.fixture
def wire(rig: Rig, pods: tuple[Space, Space]):  # type: ignore[no-untyped-def]  # a generator of Wire
    made = Wire(pods[0], rig.node)
    yield made
    made.close()


@pytest.fixture
def back(rig: Rig, pods: tuple[Space, Space]):  # type: ignore[no-untyped-def]  # a generator of Wire
    made = Wire(pods[1], rig.node)
    yield made
    made.close()


def packet(family: int, source: Space, destination: Space, protocol: int, body: bytes) -> bytes:
    make = ipv6 if family == 6 else ipv4
    return make(source.address(family), destination.address(family), protocol, body)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pods_scan_pushes_out_its_own_connections_and_nobody_elses(
    rig: Rig, pods: tuple[Space, Space], family: int
) -> None:
    client, server = pods
    scanner = both(rig, "a/scanner", 3)
    rig.apply()
    rig.maps.configure(Config.POD_CONNECTIONS, 64)
    with (
        open_socket(client, family, socket.SOCK_DGRAM) as here,
        open_socket(scanner, family, socket.SOCK_DGRAM) as scanning,
        open_socket(server, family, socket.SOCK_DGRAM) as there,
    ):
        there.bind((server.address(family), 53))
        for asking in (here, scanning):
            asking.sendto(b"?", (server.address(family), 53))
            there.sendto(b"!", there.recvfrom(10)[1])
            assert asking.recv(10) == b"!"
        for port in range(1000, 1500):
            scanning.sendto(b"x", (server.address(family), port))
    # Each connection has an entry of either pod, and the one that opened it pays for both.
    mine, scanned = rig.flows_of("a/scanner"), rig.flows_of("a/server")
    assert len(mine) + len(scanned) == 64 + 1
    # An answered connection is kept before scanned ports are.
    assert 53 in mine["remote_port"]
    assert list(rig.flows_of("a/client")["remote_port"]) == [53]
    assert list(scanned["local_port"]).count(53) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_syn_is_judged_whatever_comes_with_it(rig: Rig, pods: tuple[Space, Space], wire: Wire, family: int) -> None:
    client, server = pods
    rig.policy("a/none", **TO_SERVER, ingress=[])
    rig.apply()
    for flags in (SYN, SYN | FIN, SYN | 4, SYN | 8 | 32):
        wire.send(packet(family, client, server, 6, tcp(80, flags, 5000 + flags)))
    assert [row.reason for row in of(rig.seen(), subject="a/server")] == ["default_deny"] * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_syn_once_more_is_no_new_connection_and_another_is(
    rig: Rig, pods: tuple[Space, Space], wire: Wire, family: int
) -> None:
    client, server = pods
    rig.policy("a/in", **TO_SERVER, ingress=[{"ports": [{"port": 80}]}])
    rig.apply()
    for sequence in (7, 7, 7, 8):
        wire.send(packet(family, client, server, 6, tcp(80, SYN, sequence=sequence)))
    assert len(of(rig.seen(), subject="a/server", verdict="allow")) == 2
    rig.policy("a/in", **TO_SERVER, ingress=[])
    rig.apply()
    wire.send(packet(family, client, server, 6, tcp(80, SYN, sequence=8)))
    assert [row.verdict for row in of(rig.seen(), subject="a/server")] == ["deny"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_syn_and_ack_opens_nothing(rig: Rig, pods: tuple[Space, Space], wire: Wire, back: Wire, family: int) -> None:
    client, server = pods
    rig.policy("a/none", **TO_SERVER, policyTypes=["Ingress", "Egress"])
    rig.apply()
    wire.send(packet(family, client, server, 6, tcp(80, SYN | ACK)))
    back.send(packet(family, server, client, 6, tcp(80, SYN | ACK, 4001)))
    assert {row.verdict for row in of(rig.seen(), subject="a/server")} == {"deny"}


def test_a_question_of_icmp_is_nobodys_answer(rig: Rig, pods: tuple[Space, Space], wire: Wire, back: Wire) -> None:
    client, server = pods
    rig.policy("a/closed", **TO_CLIENT, ingress=[])
    rig.apply()
    wire.send(packet(4, client, server, 1, icmp(13)))
    back.send(packet(4, server, client, 1, icmp(13)))
    assert [row.verdict for row in of(rig.seen(), subject="a/client", direction="ingress")] == ["deny"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quoted_packet_is_no_passport(rig: Rig, pods: tuple[Space, Space], back: Wire, family: int) -> None:
    client, server = pods
    other = both(rig, "a/other", 3)
    rig.policy("a/none", **TO_SERVER, ingress=[{}], egress=[], policyTypes=["Ingress", "Egress"])
    rig.apply()
    with open_socket(client, family, socket.SOCK_DGRAM) as here:
        here.bind((client.address(family), 4000))
        here.sendto(b"x", (server.address(family), 9))
    rig.drain()
    quoted = packet(family, client, server, 17, udp(9, 4000))
    protocol, error = (58, icmp(1, 4, data=quoted)) if family == 6 else (1, icmp(3, 3, data=quoted))
    back.send(packet(family, server, client, protocol, error))
    assert rig.seen() == []
    back.send(packet(family, server, other, protocol, error))
    assert [row.verdict for row in of(rig.seen(), subject="a/server")] == ["deny"]


def test_no_address_is_nobodys_own(rig: Rig) -> None:
    client = rig.pod("a/client", "10.244.0.1")
    both(rig, "a/server", 2)
    rig.apply()
    wire = Wire(client, rig.node)
    wire.send(ipv6("::", "fd44::2", 17, udp(1000)))
    wire.close()
    assert [row.reason for row in rig.seen()] == ["spoofed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_audited_traffic_passes_and_is_told_once_a_connection(rig: Rig, pods: tuple[Space, Space], family: int) -> None:
    client, server = pods
    rig.policy("a/none", **TO_SERVER, ingress=[])
    rig.apply()
    rig.answer("a/server", Direction.INGRESS, Verdict.AUDIT, Reason.DEFAULT_DENY)
    with listen(server, family, 80) as listening, open_socket(client, family, socket.SOCK_STREAM) as here:
        here.connect((server.address(family), 80))
        there, _ = listening.accept()
        with there:
            for _ in range(5):
                here.send(b"x")
                assert there.recv(10) == b"x"
                there.send(b"y")
                assert here.recv(10) == b"y"
    assert [(row.verdict, row.reason, row.count, row.policies) for row in of(rig.seen(), subject="a/server")] == [
        ("audit", "default_deny", 1, ("a/none",))
    ]


def test_an_audited_port_is_told_and_an_older_answer_is_not(rig: Rig, pods: tuple[Space, Space]) -> None:
    client, server = pods
    rig.policy("a/in", **TO_SERVER, ingress=[{"ports": [{"port": 80}]}])
    with (
        tracking(rig.node),
        listen(server, 4, 80),
        listen(client, 4, 90) as listening,
        open_socket(server, 4, socket.SOCK_STREAM) as older,
    ):
        older.connect((client.address(4), 90))
        there, _ = listening.accept()
        with there:
            rig.apply()
            rig.answer("a/server", Direction.INGRESS, Verdict.AUDIT, Reason.DEFAULT_DENY)
            for key, value in rig.maps["port_entries"].items().items():
                rig.maps["port_entries"].set(key, value[:4] + bytes([Verdict.AUDIT]) + value[5:])
            assert connects(client, server.address(4), 80)
            there.send(b"x")
            assert older.recv(10) == b"x"
    told = [(row.verdict, row.port) for row in of(rig.seen(), subject="a/server")]
    # The older connection was the server's own: nothing would have been denied.
    assert told == [("audit", 80), ("allow", 90)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_node_can_be_denied_to_a_pod_and_still_reaches_it(rig: Rig, pods: tuple[Space, Space], family: int) -> None:
    _, server = pods
    rig.policy("a/out", **TO_SERVER, policyTypes=["Ingress", "Egress"])
    rig.apply()
    for key, value in rig.maps["policy_entries"].items().items():
        if np.frombuffer(value, POLICY_ENTRY)["reason"] == Reason.NODE:
            changed = value[:8] + bytes([Verdict.DENY, Reason.EXPLICIT_DENY]) + value[10:]
            rig.maps["policy_entries"].set(key, changed)
    with listen(server, family, 80), listen(rig.node, family, 8080):
        assert gets_no_answer(server, rig.node.address(family), 8080)
        assert connects(rig.node, server.address(family), 80)
    seen = of(rig.seen(), subject="a/server")
    assert {(row.direction, row.verdict, row.reason) for row in seen} == {
        ("egress", "deny", "explicit_deny"), ("ingress", "allow", "node"),
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_between_the_two_attachments_no_denied_connection_is_made(
    rig: Rig, pods: tuple[Space, Space], family: int
) -> None:
    client, server = pods
    rig.policy("a/none", **TO_SERVER, ingress=[])
    rig.apply()
    rig.attachments._pin(server.index, "pod_ingress").unlink(missing_ok=True)
    rig.attachments._filters.remove(server.index, "egress")
    assert not rig.attachments.is_attached(server.index)
    with listen(server, family, 80):
        # The server hears the SYN; its answer is judged by what it answers.
        assert gets_no_answer(client, server.address(family), 80)
        assert {row.verdict for row in of(rig.seen(), subject="a/server")} == {"deny"}
        rig.apply()
        assert rig.attachments.is_attached(server.index)
        assert gets_no_answer(client, server.address(family), 80)
        assert {row.direction for row in of(rig.seen(), subject="a/server")} == {"ingress"}


@pytest.mark.parametrize("family", FAMILIES)
def test_fragments_on_the_way_out_follow_their_first(rig: Rig, pods: tuple[Space, Space], family: int) -> None:
    client, server = pods
    rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress"], egress=[{"ports": [{"port": 1000, "protocol": "UDP"}]}])
    rig.apply()
    body = bytes(range(256)) * 40
    with open_socket(server, family, socket.SOCK_DGRAM) as good, open_socket(server, family, socket.SOCK_DGRAM) as bad:
        good.bind((server.address(family), 1000))
        bad.bind((server.address(family), 2000))
        bad.settimeout(0.3)
        with open_socket(client, family, socket.SOCK_DGRAM) as here:
            here.sendto(body, (server.address(family), 2000))
            here.sendto(body, (server.address(family), 1000))
        assert good.recv(20_000) == body
        with pytest.raises(TimeoutError):
            bad.recv(20_000)
    assert [(row.verdict, row.port) for row in of(rig.seen(), subject="a/client")] == [("deny", 2000), ("allow", 1000)]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_open_udp_flow_is_cut_and_mended_by_policy(rig: Rig, pods: tuple[Space, Space], family: int) -> None:
    client, server = pods
    opened = [{"ports": [{"port": 53, "protocol": "UDP"}]}]
    rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress"], egress=opened)
    rig.apply()
    with (
        open_socket(client, family, socket.SOCK_DGRAM) as here,
        open_socket(server, family, socket.SOCK_DGRAM) as there,
    ):
        there.bind((server.address(family), 53))
        here.sendto(b"?", (server.address(family), 53))
        asker = there.recvfrom(10)[1]
        rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress"])
        rig.apply()
        # The server goes on sending: the client's egress decides about it.
        here.settimeout(0.3)
        there.sendto(b"1", asker)
        with pytest.raises(TimeoutError):
            here.recv(10)
        rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress"], egress=opened)
        rig.apply()
        here.settimeout(PATIENCE_S)
        there.sendto(b"2", asker)
        assert here.recv(10) == b"2"


def test_echo_with_a_closed_way_in(rig: Rig, pods: tuple[Space, Space]) -> None:
    client, server = pods
    rig.policy("a/closed", podSelector={}, ingress=[])
    rig.apply()
    for family in FAMILIES:
        assert not ping(client, server.address(family), MOMENT_S)
    assert {(row.verdict, row.port) for row in of(rig.seen(), direction="ingress")} == {
        ("deny", struct.unpack("!H", bytes([8, 0]))[0]),
        ("deny", struct.unpack("!H", bytes([128, 0]))[0]),
    }
