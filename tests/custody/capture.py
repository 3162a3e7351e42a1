"""Captures of what is sent and received at interfaces inside network namespaces, with the kernel's times."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from typing import Final

from netns import Space, run_in

from tests.custody.packets import Packet, Tuple, read_frame

_ALL: Final = 0x0003
"""ETH_P_ALL in linux/if_ether.h."""
_OUTGOING: Final = 4
"""PACKET_OUTGOING in linux/if_packet.h."""
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_SNAP: Final = 320
_BUFFER_BYTES: Final = 64 << 20


class Captures:
    """All captures, read on one thread. The packets are complete after :meth:`close`."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.dropped = 0
        """Packets that the kernel captured and had no room for: without them nothing can be accounted for."""
        self.last_ns: dict[str, int] = {}
        """When the last packet was captured, by place."""
        self._selector, self._lock, self._stop = selectors.DefaultSelector(), threading.RLock(), threading.Event()
        self._sockets: dict[str, socket.socket] = {}
        self._known: dict[Tuple, Tuple] = {}
        self._thread = threading.Thread(target=self._run, name="captures")
        self._thread.start()

    def add(self, space: Space, place: str, device: str = "eth0") -> None:
        """Capture at an interface from now on."""
        made = run_in(space, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)))
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        made.bind((device, _ALL))
        made.settimeout(0)
        with self._lock:
            self._sockets[place] = made
            self._selector.register(made, selectors.EVENT_READ, place)

    def remove(self, place: str) -> None:
        """End a capture, with all that has arrived until now."""
        with self._lock:
            made = self._sockets.pop(place)
            while self._read(made, place):
                pass
            self._selector.unregister(made)
            self.dropped += struct.unpack("II", made.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
            made.close()

    def is_silent(self, nanoseconds: int, place: str = "") -> bool:
        """Return whether no packet was captured for some time, at a place or anywhere."""
        last = self.last_ns.get(place, 0) if place else max(list(self.last_ns.values()), default=0)
        return time.time_ns() - last > nanoseconds

    def close(self) -> None:
        """End all captures."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            for place in list(self._sockets):
                self.remove(place)

    def _run(self) -> None:
        while not self._stop.is_set():
            # Not one after the other: a thread that handles each packet by itself would keep the others waiting.
            if not self._selector.select(0.2):
                continue
            self._stop.wait(0.005)
            with self._lock:
                for key, _ in self._selector.select(0):
                    self._read(key.fileobj, key.data)  # type: ignore[arg-type]  # registered by add()

    def _read(self, source: socket.socket, place: str) -> int:
        """Take up to some hundred packets; return how many they were."""
        for number in range(500):
            try:
                frame, extra, _, address = source.recvmsg(_SNAP, 64)
            except BlockingIOError:
                return number
            except OSError:
                return 1  # the interface is gone; what it has captured before comes after this
            seconds, nanoseconds = next(
                struct.unpack("qq", data) for level, kind, data in extra if kind == _SO_TIMESTAMPNS
            )
            at = seconds * 1_000_000_000 + nanoseconds
            with contextlib.suppress(IndexError, struct.error):
                packet = read_frame(frame, at, place, is_sent=address[2] == _OUTGOING)
                if packet is not None:
                    self.last_ns[place] = at
                    self.packets.append(packet._replace(flow=self._known.setdefault(packet.flow, packet.flow)))
        return 500
