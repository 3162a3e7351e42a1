"""End the kernel's deny windows on time, so that their counts become verdicts without waiting for another packet.

THEORY OF OPERATION (the kernel's half is in ``bpf/verdicts.h``). Windows exist twice; the parity of a window number in
``config`` selects the map in which programs count. A rotation, say from window 6 to 7:

1. Close what is left in the idle map (parity 1), in case a probe was killed between steps 2 and 4.
2. Write window number 7. New packets count in the map of parity 1.
3. Wait until no program run that read 6 can still be counting in the map of parity 0.
4. Run ``close_windows`` on all keys of parity 0. For each window the kernel emits the verdict and deletes the window
   in one program run, so that no count is emitted twice, whichever process is killed when.

If the ring is full, windows keep their counts, and the rotation tries again until the reader has made room. With
WEIR_LIMIT_DENIED it waits for room as well (``bpf/limits.h``), but not for long, and not at all when the probe stops;
what is left keeps counting, and is closed by a later one. The windows that have counted for longest are closed first,
because in another order some would never be closed while more flows are active than the limit has room for.
"""

from __future__ import annotations

import struct
import threading
import time
from typing import Final

import numpy as np
import structlog

from probe.kernel import bpf
from probe.kernel.description import WINDOWS
from probe.kernel.layout import CLOSE_KEYS, Array, Config, distinct
from probe.kernel.maps import Maps

_HEAD: Final = struct.Struct("=16x4I")
"""``struct close_request`` without its keys: parity, flood, number of keys, padding."""
_RETRIES: Final = 100
_RETRY_S: Final = 0.02
_LIMITED_RETRY_S: Final = 0.1
"""Room in the limit comes once in a second."""
_LIMITED_S: Final = 2.0
_LIMITED_SHARE: Final = 0.4
"""Closing one map waits for room in the limit for so many seconds at most, and for this share of a window at most."""

log = structlog.get_logger("kubeweir.probe")


class DenyWindows:
    """The deny windows of one set of maps. One caller at a time."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self.stop = threading.Event()
        """Once it is set, nothing waits for room in the limit."""

    def rotate(self) -> int:
        """Begin the next window and close the current one. Return how many flows' windows were closed."""
        number = self._maps.config(Config.DENY_WINDOW)
        closed = self._close((number + 1) & 1)
        self._maps.configure(Config.DENY_WINDOW, number + 1)
        bpf.wait_for_programs()
        return closed + self._close(number & 1)

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger that open windows have, by kind."""
        found = [self._maps[name].entries() for name in WINDOWS]
        return {
            "identity": distinct(*(values["identity"] for _, values in found)),
            "rule": distinct(*(keys["rule"] for keys, _ in found)),
            "endpoint": distinct(*(keys["endpoint"] for keys, _ in found)),
        }

    def _close(self, parity: int) -> int:
        flows = self._close_map(f"deny_windows_{parity}", parity, flood=0)
        return flows + self._close_map(f"floods_{parity}", parity, flood=1)

    def _close_map(self, name: str, parity: int, flood: int) -> int:
        is_limited, retries = self._maps.config(Config.LIMIT_DENIED) > 0, _RETRIES
        if is_limited:
            wait_s = min(_LIMITED_S, self._maps.config(Config.WINDOW_NS) / 1e9 * _LIMITED_SHARE)
            retries = max(1, int(wait_s / _LIMITED_RETRY_S))
        # Once: nothing counts in this map any more, and the programs close the keys in order.
        keys, values = self._maps[name].entries()
        keys, closed = keys[_oldest_first(values)], 0
        for _ in range(retries):
            closed += self._close_keys(keys[closed:].tobytes(), parity, flood)
            if closed == len(keys):
                return closed
            if not is_limited:
                time.sleep(_RETRY_S)
            elif self.stop.wait(_LIMITED_RETRY_S):
                break
        if is_limited:
            return closed
        log.warning(
            "deny windows could not be closed because the ring stays full; their counts are kept for the next rotation",
            map=name,
            closed=closed,
        )
        return closed

    def _close_keys(self, keys: bytes, parity: int, flood: int) -> int:
        size = self._maps["deny_windows_0"].layout.key.itemsize
        done = 0
        for start in range(0, len(keys), CLOSE_KEYS * size):
            chunk = keys[start : start + CLOSE_KEYS * size]
            requested = len(chunk) // size
            request = _HEAD.pack(parity, flood, requested, 0) + chunk
            answer, _ = bpf.program_run(self._maps.programs["close_windows"], request)
            done += answer
            if answer < requested:
                break
        return done


def packets_waiting(maps: Maps) -> int:
    """Return how many denied packets the open windows have counted."""
    return sum(int(maps[name].entries()[1]["count"].sum(dtype="u8")) for name in WINDOWS)


def _oldest_first(windows: Array) -> Array:
    """Return the order in which windows are closed. Those without a count need no room."""
    return np.lexsort((windows["first_ns"], windows["count"] > 0))
