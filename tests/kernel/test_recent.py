"""The short way of a connection of which a packet passed a moment ago: what it must not let through.

Asked by BPF_PROG_RUN. Each test first sends a burst, so that the short way is open; however busy the machine is, none
fails for it.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

import numpy as np
import pytest
from netns import Space, run_in

from probe.kernel import bpf
from probe.kernel.layout import ENDPOINT_SIDES, Config
from tests.kernel.asked import SHOT
from tests.kernel.frames import ipv4, ipv6, tcp, udp
from tests.kernel.rig import FAMILIES, Rig, both
from tests.waiting import until

pytestmark = [pytest.mark.kernel, pytest.mark.one_mode]

SYN, ACK, FIN, RST = 2, 16, 1, 4
OPEN, CLOSED, SOURCE = 8080, 9090, 4000
BURST = 2000
CLOSING = 0x02
"""FLOW_CLOSING."""
WORLD = {4: "203.0.113.9", 6: "2001:db8:f::9"}


@dataclass
class Client:
    """A pod with an open connection, and its programs."""

    rig: Rig
    pod: Space
    server: Space
    family: int

    def run(self, frame: bytes, times: int = 1, pod: Space | None = None) -> bool:
        """Whether it passes on its way out of the pod."""
        index = (pod or self.pod).index
        context, frame = struct.pack("=40xI148x", index), self.rig.own_frame(index, frame)
        program = self.rig.maps.programs["pod_egress"]
        return run_in(self.rig.node, lambda: bpf.program_run(program, frame, times, context))[0] != SHOT

    def frame(self, flags: int, port: int = OPEN, sequence: int = 1, to: str = "") -> bytes:
        """A TCP packet to the server, or elsewhere."""
        return self.packet(6, tcp(port, flags, SOURCE, sequence), to)

    def packet(self, protocol: int, body: bytes, to: str = "") -> bytes:
        make, kind = (ipv6, b"\x86\xdd") if self.family == 6 else (ipv4, b"\x08\x00")
        return (
            bytes(12)
            + kind
            + make(self.pod.address(self.family), to or self.server.address(self.family), protocol, body)
        )

    def flow(self) -> np.void:
        """What is remembered of the one connection to the server."""
        keys, values = self.rig.maps["connections"].entries()
        number = self.rig.installer.endpoints[self.pod.index]
        theirs = (keys["endpoint"] == number) & (keys["remote_port"] == OPEN) & (keys["protocol"] == 6)
        found: list[np.void] = list(values[theirs])
        (entry,) = found
        return entry


@pytest.fixture(params=FAMILIES)
def client(rig: Rig, request: pytest.FixtureRequest) -> Client:
    made = Client(rig, both(rig, "a/client", 1), both(rig, "a/server", 2), request.param)
    to = [{"podSelector": {"matchLabels": {"app": "server"}}}, *({"ipBlock": {"cidr": f"{ip}/{bits}"}} for ip, bits in
           ((WORLD[4], 32), (WORLD[6], 128)))]  # fmt: skip
    # Closed on its way in as well: else what comes without a SYN may be an older connection's answer.
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Ingress", "Egress"],
               egress=[{"to": to, "ports": [{"port": OPEN}]}])  # fmt: skip
    rig.apply()
    assert made.run(made.frame(SYN))
    assert made.run(made.frame(ACK), BURST)
    assert [(row.verdict, row.port) for row in rig.seen()] == [("allow", OPEN)]
    return made


def test_a_change_of_policy_reaches_the_very_next_packet(client: Client) -> None:
    rig = client.rig
    for allowed in (False, True, False):
        rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Ingress", "Egress"],
                   egress=[{}] if allowed else [])  # fmt: skip
        rig.apply()
        assert client.run(client.frame(ACK)) is allowed
        assert client.run(client.frame(ACK), BURST) is allowed


def test_a_switch_of_the_epoch_reaches_the_very_next_packet(client: Client) -> None:
    """The other side, on which the pod may reach nobody, lies ready: one write is all that comes between."""
    maps, key = client.rig.maps, client.pod.index.to_bytes(4, "little")
    epoch = maps.config(Config.EPOCH)
    value = np.frombuffer(maps["endpoints"].items()[key], ENDPOINT_SIDES).copy()
    value["side"]["set"][:, 1 - epoch % 2] = 1 << 31
    maps["endpoints"].set(key, value.tobytes())
    for _ in range(50):
        assert client.run(client.frame(ACK), BURST)
        maps.configure(Config.EPOCH, epoch + 1)
        assert not client.run(client.frame(ACK))
        epoch += 2
        maps.configure(Config.EPOCH, epoch)


def test_another_syn_is_another_connection(client: Client) -> None:
    assert client.run(client.frame(SYN, sequence=77))
    # The exit is to log it (CHECK_UNLOGGED in bpf/layout.h); none is run here.
    flow = client.flow()
    assert (int(flow["sequence"]), int(flow["check"])) == (77, 3)


@pytest.mark.parametrize("flag", [FIN, RST])
def test_the_end_of_a_connection_is_seen(client: Client, flag: int) -> None:
    assert not client.flow()["state"] & CLOSING
    assert client.run(client.frame(ACK | flag))
    assert client.flow()["state"] & CLOSING


def test_another_port_or_protocol_is_judged(client: Client) -> None:
    for frame in (client.frame(ACK, CLOSED), client.packet(17, udp(OPEN, SOURCE)), client.packet(6, b"")):
        assert not client.run(frame)
    assert {row.reason for row in client.rig.seen()} == {"unknown_flow", "default_deny", "unparsable"}


def test_another_pod_has_no_part_in_it(client: Client) -> None:
    for _ in range(10):
        assert client.run(client.frame(ACK), BURST)
        assert not client.run(client.frame(ACK), pod=client.server)
    assert {row.reason for row in client.rig.seen()} == {"spoofed"}


def test_ipv4_in_the_clothes_of_ipv6_is_nobodys(client: Client) -> None:
    ends = [f"::ffff:{space.address(4)}" for space in (client.pod, client.server)]
    assert not client.run(bytes(12) + b"\x86\xdd" + ipv6(ends[0], ends[1], 6, tcp(OPEN, ACK, SOURCE)))
    assert [row.reason for row in client.rig.seen()] == ["unparsable"]


def test_a_later_fragment_that_looks_like_it_is_none_of_it(client: Client) -> None:
    body = tcp(OPEN, ACK, SOURCE)
    if client.family == 4:
        frame = bytes(12) + b"\x08\x00" + ipv4(client.pod.address(4), client.server.address(4), 6, body, fragment=5)
    else:
        # RFC 8200 section 4.5: next header, reserved, offset in units of 8 and the flag that more follow, number.
        frame = client.packet(44, struct.pack("!BBHI", 6, 0, 5 << 3, 1) + body)
    assert not client.run(frame)
    assert [row.reason for row in client.rig.seen()] == ["fragment"]


def test_headers_that_are_not_plain_are_read_all_the_same(client: Client) -> None:
    for port, allowed in ((OPEN, True), (CLOSED, False)):
        body = tcp(port, ACK, SOURCE)
        if client.family == 4:
            packet = ipv4(client.pod.address(4), client.server.address(4), 6, body, options=b"\x01" * 4)
            frame = bytes(12) + b"\x08\x00" + packet
        else:
            frame = client.packet(60, bytes([6, 0, 1, 4, 0, 0, 0, 0]) + body)
        assert client.run(frame) is allowed
        client.rig.maps.configure(Config.ANY_FRAME, 1)
        tagged = client.frame(ACK, port)
        assert client.run(tagged[:12] + struct.pack("!HH", 0x8100, 7) + tagged[12:]) is allowed


def test_its_connection_is_in_use_all_the_while(client: Client) -> None:
    """However many packets take the short way, its entry's time goes on: by it the entry ages."""
    before = client.flow()["last_ns"]
    until(lambda: client.run(client.frame(ACK), BURST) and client.flow()["last_ns"] > before + 100_000_000)


def test_each_packet_to_the_world_has_a_slot_that_says_whose_it_is(client: Client) -> None:
    rig, to = client.rig, WORLD[client.family]
    assert client.run(client.frame(SYN, to=to))
    started = time.monotonic_ns()
    assert client.run(client.frame(ACK, to=to), BURST)
    _, slots = rig.maps["slots"].entries()
    slots = slots[slots["time_ns"] > started]
    assert len(slots) == BURST
    written = {(int(slot["endpoint"]), int(slot["ifindex"]), int(slot["source_port"]), int(slot["destination_port"]),
                int(slot["protocol"]), int(slot["confirm"]), int(slot["hash"])) for slot in slots}  # fmt: skip
    number = rig.installer.endpoints[client.pod.index]
    assert {row[:6] for row in written} == {(number, client.pod.index, SOURCE, OPEN, 6, 1)}
    assert len(written) == 1
    assert {slot["source"].tobytes() for slot in slots} == {client_address(client)}


def client_address(client: Client) -> bytes:
    """As the kernel has it: IPv4 mapped."""
    (key,) = {key["local"].tobytes() for key in client.rig.flows_of("a/client")}
    return bytes(key)
