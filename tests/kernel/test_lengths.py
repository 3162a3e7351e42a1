"""Lengths that lie: nothing is read behind the end that the IP header states, and a header must fit before it.

What lies behind that end is not part of the packet. A receiver ignores it, so a program that believed it could be shown
another port or another TCP flag than the receiver sees.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from netns import PATIENCE_S, open_socket, run_in

from probe.kernel import bpf
from probe.kernel.layout import Counter
from tests.kernel.asked import SHOT
from tests.kernel.frames import Wire, extension, ipv4, ipv6, sctp, tcp, udp
from tests.kernel.rig import FAMILIES, Rig, both, of

pytestmark = pytest.mark.kernel

SYN, ACK = 2, 16
ENDS = {4: ("10.244.0.1", "10.244.0.2"), 6: ("fd44::1", "fd44::2")}
BEHIND = tcp(80, ACK)[8:] + bytes(40)
"""Bytes behind a packet of which 8 bytes of TCP are there: read on, it claims ACK."""


@pytest.fixture
def wire(rig: Rig) -> Iterator[Wire]:
    client, _ = both(rig, "a/client", 1), both(rig, "a/server", 2)
    # Closed both ways, so that a packet without SYN is not taken for an older connection's either.
    rig.policy("a/none", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Ingress", "Egress"],
               egress=[{"ports": [{"port": 53, "protocol": "UDP"}]}])  # fmt: skip
    rig.apply()
    made = Wire(client, rig.node)
    yield made
    made.close()


def packet(family: int, protocol: int, body: bytes) -> bytes:
    return (ipv6 if family == 6 else ipv4)(*ENDS[family], protocol, body)


def fragment(family: int, protocol: int, body: bytes, offset: int = 0, *, more: bool = True, number: int = 7) -> bytes:
    """``offset`` in bytes."""
    if family == 4:
        return ipv4(*ENDS[4], protocol, body, fragment=more << 13 | offset // 8, number=number)
    return ipv6(*ENDS[6], 44, struct.pack("!BBHI", protocol, 0, offset | more, number) + body)


def unparsable(rig: Rig, wire: Wire, frame: bytes) -> bool:
    """Send a frame; whether it was dropped and counted, and that is all that was said of it."""
    before = rig.maps.counters()[Counter.UNPARSABLE]
    wire.send(frame)
    counted = rig.maps.counters()[Counter.UNPARSABLE] - before
    reasons = [row.reason for row in rig.seen()]
    # A repeated drop of one kind is counted in its window.
    rig.windows.rotate()
    rig.drain()
    return counted == 1 and reasons in (["unparsable"], [])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_first_fragment_shows_its_whole_header_before_its_end(rig: Rig, wire: Wire, family: int) -> None:
    header = tcp(80, SYN)
    for length in (8, 16):
        assert unparsable(rig, wire, fragment(family, 6, header[:length]) + BEHIND)
    # Options that only the next fragment has.
    assert unparsable(rig, wire, fragment(family, 6, header[:12] + b"\xf0" + header[13:] + bytes(4)))
    wire.send(fragment(family, 6, tcp(80, SYN) + bytes(4)))
    assert [row.reason for row in rig.seen()] == ["default_deny"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_header_that_ends_behind_the_packet_is_unparsable(rig: Rig, wire: Wire, family: int) -> None:
    for protocol, header, least in ((6, tcp(80, ACK), 20), (17, udp(53, data=b""), 8), (132, sctp(53), 12)):
        for length in (0, 4, least - 1):
            assert unparsable(rig, wire, packet(family, protocol, header[:length]) + header[length:] + bytes(20))
    for words in (0, 4, 6, 15):
        header = tcp(80, SYN)
        assert unparsable(rig, wire, packet(family, 6, header[:12] + bytes([words << 4]) + header[13:]) + bytes(40))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_longer_than_its_frame_is_unparsable(rig: Rig, wire: Wire, family: int) -> None:
    assert unparsable(rig, wire, packet(family, 17, udp(53, data=bytes(9)))[:-1])
    assert unparsable(rig, wire, packet(family, 6, tcp(53, SYN) + bytes(9))[:-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_behind_a_packet_is_no_part_of_it(rig: Rig, wire: Wire, family: int) -> None:
    wire.send(packet(family, 17, udp(53)) + bytes(18))
    assert [(row.verdict, row.port) for row in of(rig.seen(), direction="egress")] == [("allow", 53)]


def test_an_extension_header_ends_before_the_packets_end(rig: Rig, wire: Wire) -> None:
    whole = extension(17, 1) + udp(53)
    for length in (0, 7, 12):
        assert unparsable(rig, wire, packet(6, 60, whole[:length]) + whole[length:])
    wire.send(packet(6, 60, whole))
    assert [(row.verdict, row.port) for row in of(rig.seen(), direction="egress")] == [("allow", 53)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_fragment_does_not_overlap_the_first(rig: Rig, wire: Wire, family: int) -> None:
    data = udp(53, data=bytes(56))
    wire.send(fragment(family, 17, data[:32]))
    assert [row.verdict for row in of(rig.seen(), direction="egress")] == ["allow"]
    assert unparsable(rig, wire, fragment(family, 17, data[8:], 8, more=False))
    assert unparsable(rig, wire, fragment(family, 17, data[24:], 24, more=False))
    wire.send(fragment(family, 17, data[32:], 32, more=False))
    assert not of(rig.seen(), verdict="deny")


def test_fragments_behind_which_the_header_is_another_follow_their_first(rig: Rig, wire: Wire) -> None:
    """Destination options inside the fragments: the next header of the fragment header is not the packet's protocol."""
    data = extension(17) + udp(53, data=bytes(56))
    server = rig.pods["a/server"]
    with run_in(server, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))) as sniffer:
        sniffer.settimeout(PATIENCE_S)
        wire.send(fragment(6, 60, data[:32]))
        # RFC 8200 section 4.5: only the first fragment's next header counts.
        wire.send(fragment(6, 17, data[32:], 32, more=False))
        arrived = 0
        while arrived < 2:
            arrived += sniffer.recv(2000)[20] == 44
    assert not of(rig.seen(), verdict="deny")


@pytest.mark.one_mode
@pytest.mark.parametrize("family", FAMILIES)
def test_a_length_of_zero_is_the_kernels_own_large_packet_or_nothing(rig: Rig, wire: Wire, family: int) -> None:
    """BIG TCP: more than 64 KiB, to be segmented by the kernel (RFC 2675). What a pod sends so is not."""
    whole = packet(family, 17, udp(53, data=bytes(1000)))
    at = 2 if family == 4 else 4
    frame = bytes(12) + (b"\x08\x00" if family == 4 else b"\x86\xdd") + whole[:at] + bytes(2) + whole[at + 2 :]
    pod, program = rig.pods["a/client"], rig.maps.programs["pod_egress"]
    frame = rig.own_frame(pod.index, frame)
    for segment, passes in ((0, False), (500, True)):
        # struct __sk_buff: ifindex at offset 40, gso_size at 176.
        context = struct.pack("=40xI132xI12x", pod.index, segment)
        answer, _ = run_in(rig.node, lambda c=context: bpf.program_run(program, frame, 1, c))  # type: ignore[misc]
        assert (answer != SHOT) is passes


@pytest.mark.parametrize("family", FAMILIES)
def test_large_segments_of_real_connections_pass(rig: Rig, family: int) -> None:
    """Segmentation offload: frames of up to 64 KiB, whose length is stated."""
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/in", podSelector={"matchLabels": {"app": "server"}}, ingress=[{"ports": [{"port": 8080}]}])
    rig.apply()
    size, got = 8 << 20, bytearray()

    def read() -> None:
        with listener.accept()[0] as connection:
            while data := connection.recv(1 << 16):
                got.extend(data)

    with open_socket(server, family, socket.SOCK_STREAM) as listener:
        listener.bind((server.address(family), 8080))
        listener.listen()
        reader = threading.Thread(target=read)
        reader.start()
        with open_socket(client, family, socket.SOCK_STREAM) as sender:
            sender.settimeout(PATIENCE_S)
            sender.connect((server.address(family), 8080))
            sender.sendall(bytes(size))
        reader.join(PATIENCE_S)
    assert len(got) == size
    assert not of(rig.seen(), verdict="deny")
