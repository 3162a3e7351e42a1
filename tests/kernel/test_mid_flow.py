"""Packets without a handshake: none passes in a direction that policy denies, and a flood harms no other pod."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest
from netns import Space, listen, open_socket

from probe.kernel.layout import LOOKUPS, Config, Counter
from tests.kernel.ear import Ear, new_mark
from tests.kernel.frames import Wire, ipv4, ipv6, segment, udp
from tests.kernel.rig import FAMILIES, Rig, both, of
from tests.kernel.tracking import tracking
from tests.waiting import until

pytestmark = pytest.mark.kernel

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
MID_FLOW = (ACK, PSH | ACK, FIN | ACK, FIN, RST, RST | ACK, SYN | ACK, URG, 0, FIN | PSH | URG)
TO_CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}
TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}
MARKER = [{"ports": [{"port": 9, "protocol": "UDP"}]}]
"""What the closed pods may send or get, so that a test can tell when everything before it has arrived."""


@pytest.fixture(params=[True, False], ids=["tracking", "not-tracking"])
def node(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Space]:
    """The node, which tracks connections or does not."""
    with tracking(rig.node, on=request.param):
        yield rig.node


def packets(source: Space, destination: Space, family: int, repeat: int = 3) -> Iterator[tuple[bytes, bytes]]:
    """Yield mid-flow packets of every kind, each of another flow, with the mark that each ends with."""
    ports = itertools.count(2000)
    for flags, _ in itertools.product(MID_FLOW, range(repeat)):
        mark = new_mark()
        ends = source.address(family), destination.address(family)
        yield segment(*ends, flags, (next(ports), 443), mark), mark


def marker(source: Space, destination: Space, family: int) -> tuple[bytes, bytes]:
    mark = new_mark()
    made = ipv6 if family == 6 else ipv4
    return made(source.address(family), destination.address(family), 17, udp(9, data=mark)), mark


def handled(rig: Rig) -> int:
    """Return how many mid-flow packets have been looked up, or counted as not looked up."""
    return sum(rig.adoption.lookups.values()) + rig.maps.counters()[Counter.LOOKUPS_SPARED]


def passed(rig: Rig, source: Space, destination: Space, family: int) -> tuple[int, int]:
    """Send every mid-flow packet twice, the second time after the look-ups; return how many were sent and arrived."""
    wire, ear = Wire(source, rig.node), Ear(destination)
    sent = list(packets(source, destination, family))
    arrived = 0
    before = handled(rig)
    for _ in range(2):
        for packet, _mark in sent:
            wire.send(packet)
        last, mark = marker(source, destination, family)
        wire.send(last)
        arrived += len(ear.heard([mark for _, mark in sent], mark))
        until(lambda: handled(rig) >= before + len(sent))
    wire.close()
    ear.close()
    return 2 * len(sent), arrived


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_without_a_handshake_leaves_a_pod_whose_egress_is_denied(
    rig: Rig, node: Space, family: int, older: bool, request: pytest.FixtureRequest
) -> None:
    node_tracks_nothing = "not-tracking" in request.node.name
    client = both(rig, "a/client", 1)
    world = rig.net.pod(rig.node, "198.51.100.7", "2001:db8:7::7")
    # Ingress stays open: what is denied must not pass as an answer. Only a pod that is older than its programs is
    # believed for a minute, and only by a node that tracks nothing.
    believed = older and node_tracks_nothing
    rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress", *(["Ingress"] if believed else [])], egress=MARKER)
    rig.apply(older=older)
    sent, arrived = passed(rig, client, world, family)
    rig.net.remove(world)
    assert (sent, arrived) == (60, 0)
    rows = of(rig.seen(), subject="a/client", verdict="deny")
    assert {(row.direction, row.reason, row.policies) for row in rows} <= {
        ("egress", "unknown_flow", ()), ("ingress", "default_deny", ("a/out",)),
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_without_a_handshake_reaches_a_pod_whose_ingress_is_denied(rig: Rig, node: Space, family: int) -> None:
    server, stranger = both(rig, "a/server", 2), both(rig, "b/stranger", 3)
    rig.policy("a/in", **TO_SERVER, ingress=MARKER)
    rig.apply()
    assert passed(rig, stranger, server, family) == (60, 0)
    rows = of(rig.seen(), subject="a/server", verdict="deny")
    assert {(row.direction, row.reason) for row in rows} == {("ingress", "unknown_flow")}
    assert len(rig.flows_of("a/server")) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_no_new_udp_flow_leaves_a_pod_just_after_its_programs_were_attached(rig: Rig, node: Space, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress"], egress=MARKER)
    rig.apply(older=True)
    wire, ear = Wire(client, rig.node), Ear(server)
    made = ipv6 if family == 6 else ipv4
    marks = [new_mark() for _ in range(20)]
    for _ in range(2):
        for port, mark in enumerate(marks, 1000):
            wire.send(made(client.address(family), server.address(family), 17, udp(port, data=mark)))
    last, mark = marker(client, server, family)
    wire.send(last)
    assert ear.heard(marks, mark) == []
    wire.close()
    ear.close()
    assert {row.reason for row in of(rig.seen(), subject="a/client", verdict="deny")} == {"unknown_flow"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flood_leaves_the_victims_connections_and_log_alone(rig: Rig, node: Space, family: int) -> None:
    client, server, stranger = both(rig, "a/client", 1), both(rig, "a/server", 2), both(rig, "b/stranger", 3)
    from_client = {"from": [TO_CLIENT], "ports": [{"port": 80}]}
    rig.policy("a/in", **TO_SERVER, ingress=[from_client, *MARKER])
    rig.apply()
    rig.maps.configure(Config.POD_CONNECTIONS, 64)
    with listen(server, family, 80) as listening:
        pairs = []
        for _ in range(40):
            here = open_socket(client, family, socket.SOCK_STREAM)
            here.connect((server.address(family), 80))
            pairs.append((here, listening.accept()[0]))
        before = {key.tobytes() for key in rig.flows_of("a/server")}
        rig.drain()
        wire, ear = Wire(stranger, rig.node), Ear(server)
        for number in range(3000):
            ends = stranger.address(family), server.address(family)
            wire.send(segment(*ends, ACK, (1000 + number, 1024 + number % 500), new_mark()))
        last, mark = marker(stranger, server, family)
        wire.send(last)
        assert len(ear.heard([], mark)) >= 0
        assert before <= {key.tobytes() for key in rig.flows_of("a/server")}
        rig.windows.rotate()
        rows = of(rig.seen(), subject="a/server")
        for here, there in pairs:
            here.send(b"x")
            assert there.recv(1) == b"x"
            here.close()
            there.close()
        wire.close()
        ear.close()
    assert [row.port for row in rows if row.verdict == "allow"] == [9]
    denied = [row for row in rows if row.verdict == "deny"]
    assert {(row.direction, row.reason) for row in denied} == {("ingress", "unknown_flow")}
    assert sum(row.count for row in denied) == 3000


@pytest.mark.parametrize("family", FAMILIES)
def test_acks_to_an_open_port_do_not_push_out_connections_that_are_in_use(rig: Rig, family: int) -> None:
    client, server, stranger = both(rig, "a/client", 1), both(rig, "a/server", 2), both(rig, "b/stranger", 3)
    rig.policy("a/in", **TO_SERVER, policyTypes=["Ingress", "Egress"], ingress=[{"ports": [{"port": 80}]}, *MARKER])
    rig.apply()
    rig.maps.configure(Config.POD_CONNECTIONS, 64)
    with listen(server, family, 80) as listening, open_socket(client, family, socket.SOCK_STREAM) as here:
        here.connect((server.address(family), 80))
        there, _ = listening.accept()
        wire, ear = Wire(stranger, rig.node), Ear(server)
        for port in range(2000):
            # From an address that answers nothing: the server's RST would close the entry.
            source = f"10.244.9.{port % 250}" if family == 4 else f"fd44::9:{port % 250}"
            wire.send(segment(source, server.address(family), ACK, (1000 + port, 80), new_mark()))
            wire.send(segment(stranger.address(family), server.address(family), ACK, (1000 + port, 80), new_mark()))
        last, mark = marker(stranger, server, family)
        wire.send(last)
        ear.heard([], mark)
        with there:
            there.send(b"x")
            assert here.recv(1) == b"x"
        wire.close()
        ear.close()


@pytest.mark.parametrize("closed", ["", "Ingress", "Egress"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_syn_with_ack_of_nothing_known_passes_only_if_both_directions_are_allowed(
    rig: Rig, family: int, closed: str
) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    if closed:
        rig.policy("a/closed", **TO_CLIENT, policyTypes=[closed], **{closed.lower(): MARKER})
    rig.apply()
    wire, ear, mark = Wire(client, rig.node), Ear(server), new_mark()
    wire.send(segment(client.address(family), server.address(family), SYN | ACK, (443, 2000), mark))
    last, marked = marker(client, server, family)
    wire.send(last)
    assert ear.heard([mark], marked) == ([] if closed else [mark])
    wire.close()
    ear.close()


def test_a_pod_has_a_bounded_number_of_lookups_a_second(rig: Rig) -> None:
    server, stranger = both(rig, "a/server", 2), both(rig, "b/stranger", 3)
    rig.policy("a/in", **TO_SERVER, ingress=MARKER)
    with tracking(rig.node):
        rig.apply()
        asked, before = sum(rig.adoption.lookups.values()), handled(rig)
        wire = Wire(stranger, rig.node)
        for port in range(1000):
            wire.send(segment(stranger.address(4), server.address(4), ACK, (1000 + port, 443), b""))
        until(lambda: handled(rig) == before + 1000)
        wire.close()
        # The flood lasts less than a second, so it meets two periods at most.
        assert sum(rig.adoption.lookups.values()) - asked <= 2 * LOOKUPS
