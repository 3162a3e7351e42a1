"""The traffic of a case: first packets of connections between its ends, chosen by a seed, to be sent more than once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.applied.worlds import LOCAL, SERVICE_PORT, Case, names_of
from tests.kernel.frames import icmp, ipv4, ipv6, sctp, segment, tcp, udp

_ICMP = {4: 1, 6: 58}
_ECHO = {4: 8, 6: 128}
_TCP, _UDP, _SCTP = 6, 17, 132
_SYN: Final = 0x02
PORTS: Final = (1, 79, 80, 81, 443, 1024, 32767)
HIGH_PORT: Final = 65535
"""Of TCP only: of other protocols it may be a client's, and pairs do not keep it."""


class Sent(NamedTuple):
    """A packet that is sent with another source port each time."""

    source: str
    """The name of an end."""
    source_ip: str
    destination_ip: str
    protocol: int
    port: int
    service: bool

    def frame(self, own: int) -> bytes:
        """Return the packet. Its checksum is wrong where it can be, so that nobody answers."""
        if self.service:
            # nf_conntrack translates what it takes for a connection's.
            return segment(self.source_ip, self.destination_ip, _SYN, (own, self.port), b"")
        family = 6 if ":" in self.source_ip else 4
        match self.protocol:
            case 6:
                body = tcp(self.port, _SYN, own)
            case 17:
                body = udp(self.port, own)[:6] + b"\xde\xad" + b"x"
            case 132:
                body = sctp(self.port, own)
            case _:
                body = icmp(_ECHO[family], rest=own.to_bytes(2, "big") + b"\x00\x01")
                body = body[:2] + bytes([body[2] ^ 0xFF]) + body[3:]
        return (ipv6 if family == 6 else ipv4)(self.source_ip, self.destination_ip, self.protocol, body)


def packets(case: Case, count: int) -> list[Sent]:
    """Return packets that one of the pods under policy sends or gets."""
    rng = random.Random(case.seed)  # noqa: S311 - a test's choice
    return [packet for packet, _ in zip(_packets(case, rng), range(count), strict=False)]


def _packets(case: Case, rng: random.Random) -> Iterator[Sent]:
    ends = names_of(case.before)
    names = sorted(ends)
    while True:
        source = rng.choice(names)
        destination = rng.choice([name for name in names if name != source])
        if source not in LOCAL and destination not in LOCAL:
            continue
        family = rng.choice((4, 6))
        own = rng.choice([ip for ip in ends[source] if (":" in ip) == (family == 6)])
        if rng.random() < 0.15:
            backend = rng.choice(case.backends)
            vip = next(ip for ip in backend.service.cluster_ips if (":" in ip) == (family == 6))
            if backend.pod != source and (source in LOCAL or backend.pod in LOCAL):
                yield Sent(source, own, vip, _TCP, SERVICE_PORT, service=True)
            continue
        to = rng.choice([ip for ip in ends[destination] if (":" in ip) == (family == 6)])
        protocol = rng.choice((_TCP, _TCP, _UDP, _UDP, _SCTP, _ICMP[family]))
        port = HIGH_PORT if protocol == _TCP and rng.random() < 0.1 else rng.choice(PORTS)
        yield Sent(source, own, to, protocol, port, service=False)
