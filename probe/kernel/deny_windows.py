"""Ends the kernel's deny windows on time: what was counted comes out as rows, without another packet.

There are two generations. Programs count in the active one; here the generation is switched, the programs that still
run with the old one are waited for, and ``close_windows`` in the kernel emits each idle window's row and deletes it in
one go. So the rows have the ring's own numbers and no packet is counted twice, whatever dies when.
"""

from __future__ import annotations

import struct
import time
from typing import Final

import structlog

from probe.kernel import bpf
from probe.kernel.layout import CLOSE_KEYS, Config
from probe.kernel.maps import Maps

_HEAD: Final = struct.Struct("=16x4I")
_RETRIES: Final = 100
_PAUSE_S: Final = 0.02

log = structlog.get_logger("kubeweir.probe")


class Windows:
    """The windows of one set of maps. One caller at a time."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps

    def rotate(self) -> int:
        """Switch the generation and close what is idle then. Returns how many windows were closed."""
        generation = self._maps.config(Config.GENERATION)
        # What a probe that died between switching and closing left behind.
        closed = self._close((generation + 1) & 1)
        self._maps.configure(Config.GENERATION, generation + 1)
        bpf.wait_for_programs()
        return closed + self._close(generation & 1)

    def _close(self, idle: int) -> int:
        return self._close_map(f"windows_{idle}", idle, flood=0) + self._close_map(f"floods_{idle}", idle, flood=1)

    def _close_map(self, name: str, idle: int, flood: int) -> int:
        closed = 0
        for _ in range(_RETRIES):
            keys, _values = self._maps[name].entries()
            if not len(keys):
                return closed
            done = self._close_keys(keys.tobytes(), idle, flood)
            closed += done
            if done < len(keys):
                # The ring is full: what is left keeps its count until the reader has made room.
                time.sleep(_PAUSE_S)
        log.warning("deny windows could not be closed: the ring stays full", map=name, closed=closed)
        return closed

    def _close_keys(self, keys: bytes, idle: int, flood: int) -> int:
        size = self._maps["windows_0"].layout.key.itemsize
        done = 0
        for start in range(0, len(keys), CLOSE_KEYS * size):
            chunk = keys[start : start + CLOSE_KEYS * size]
            asked = len(chunk) // size
            answer, _ = bpf.program_run(self._maps.programs["close_windows"], _HEAD.pack(idle, flood, asked, 0) + chunk)
            done += answer
            if answer < asked:
                break
        return done
