"""What reports say that connections carried, and what the interface's own counters say."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from netns import Space, listen, open_socket, run_in

from enrich.wire.ends import How
from probe.kernel.place_expiry import PlaceExpiry
from tests.kernel.rig import Rig

PORT: Final = 8080
SECOND_NS: Final = 10**9
TCP, UDP, ICMPV6 = 6, 17, 58
Array = np.ndarray[Any, np.dtype[Any]]


def reports(rig: Rig) -> Array:
    """Take all reports out of their ring."""
    assert rig.ring.ends is not None
    first, found = rig.ring.ends.read_entries(1 << 20)
    rig.ring.ends.release(first + len(found))
    return found


def of_pod(rig: Rig, found: Array, pod: Space, port: int = PORT) -> Array:
    """Return the reports about a pod's end and a destination port."""
    number = rig.installer.endpoints[pod.index]
    verdicts = found["verdict"]
    chosen: Array = found[(verdicts["endpoint"] == number) & (verdicts["destination_port"] == port)]
    return chosen


def names(found: Array) -> list[str]:
    """Return how the connections of reports ended."""
    return [How(how).name.lower() for how in found["how"].tolist()]


def age(rig: Rig, seconds: float) -> None:
    """Make all connections quiet for longer."""
    keys, values = rig.maps["connections"].entries()
    for key, value in zip(keys, values.copy(), strict=True):
        value["last_ns"] = max(1, int(value["last_ns"]) - int(seconds * SECOND_NS))
        rig.maps["connections"].set(key.tobytes(), value.tobytes())


def sweep(rig: Rig) -> None:
    """Look at all places, as the probe does in 20 s."""
    PlaceExpiry(rig.maps).look_at(rig.maps["places"].max_entries)


def counters(rig: Rig, pod: Space) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return packets and bytes out of the pod, and into it, by the host's end of its veth."""
    names = "rx_packets", "rx_bytes", "tx_packets", "tx_bytes"
    text = run_in(rig.node, lambda: Path("/proc/thread-self/net/dev").read_text())
    row = next(line for line in text.splitlines() if line.strip().startswith(f"{pod.link}:")).split(":")[1].split()
    found = {"rx_bytes": row[0], "rx_packets": row[1], "tx_bytes": row[8], "tx_packets": row[9]}
    return np.array([int(found[name]) for name in names])


class Others:
    """Counts frames that belong to no connection: ARP, neighbour discovery and multicast listener reports."""

    def __init__(self, rig: Rig, pod: Space) -> None:
        self._socket = run_in(rig.node, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self._socket.bind((pod.link, 3))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.settimeout(0)
        self._rig, self._pod = rig, pod
        self._found = np.zeros(4, np.int64)
        self._before = self._counters()
        self._found[:] = 0

    def carried(self) -> list[int]:
        """Return packets and bytes of connections out of the pod, and into it, since this was made."""
        found: list[int] = (self._counters() - self._before - self._found).tolist()
        self._socket.close()
        return found

    def _counters(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Read the interface's counters at a moment without a packet that the socket has and they have not."""
        while True:
            self._take()
            found = counters(self._rig, self._pod)
            if not self._take():
                return found

    def _take(self) -> int:
        """Take the frames that have arrived, and return how many there were."""
        frames = 0
        while True:
            try:
                frame, (_, _, kind, _, _) = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                return frames
            frames += 1
            if not self._is_connections(frame):
                self._found[2 if kind == 4 else 0] += 1  # PACKET_OUTGOING
                self._found[3 if kind == 4 else 1] += len(frame)

    @staticmethod
    def _is_connections(frame: bytes) -> bool:
        kind = struct.unpack_from("!H", frame, 12)[0]
        if kind == 0x86DD:
            return frame[20] in (TCP, UDP, 44) or (frame[20] == ICMPV6 and frame[54] in (128, 129))
        return bool(kind == 0x0800)


def receiving(server: Space, family: int) -> socket.socket:
    """Return a socket that takes datagrams, so that no ICMP error answers that the port is closed."""
    made = open_socket(server, family, socket.SOCK_DGRAM)
    made.bind((server.address(family), PORT))
    return made


def exchange(client: Space, server: Space, family: int, size: int = 300_000, to: tuple[str, int] | None = None) -> None:
    """Open a connection, send so many bytes both ways, and close it from both ends. ``to``: what the client dials, if
    that is not the server's address."""
    with listen(server, family, PORT) as listening, open_socket(client, family, socket.SOCK_STREAM) as out:
        out.connect(to or (server.address(family), PORT))
        accepted, _ = listening.accept()
        with accepted:
            for sender, receiver in ((out, accepted), (accepted, out)):
                sending = threading.Thread(target=sender.sendall, args=(bytes(size),))
                sending.start()
                left = size
                while left:
                    left -= len(receiver.recv(left))
                sending.join()
            out.shutdown(socket.SHUT_WR)
            assert accepted.recv(1) == b""
        assert out.recv(1) == b""
