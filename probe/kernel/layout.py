"""Twins of the structs in ``bpf/layout.h``: numpy dtypes of map keys and values, and the words of ``config``.

``tests/kernel/test_layout.py`` compares their sizes with what the loaded maps report.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

VERSION: Final = "v2"
"""Of the layout; part of the pin path, so that a changed layout is built beside the old one."""


class Config(enum.IntEnum):
    """Index into ``config``; each is a u64 that is written as one word."""

    EPOCH = 0
    GENERATION = 1
    WINDOW_NS = 2
    FIRSTS = 3
    RING_ID = 4
    FLOWS = 5


class Counter(enum.IntEnum):
    """Index into ``counters`` (per CPU, u64)."""

    RING_FULL = 0
    WINDOWS_FULL = 1
    DEFERRED = 2
    AGGREGATED = 3
    UNPARSABLE = 4
    NOT_IP = 5
    FLOODED = 6
    FRAGMENT_DROPPED = 7
    CONNTRACK_FULL = 8


CHUNKS: Final = 1023
"""Runs of slots that a CPU takes one after another; in steps of a number that has no factor in common with this."""

LOST: Final = (Counter.RING_FULL, Counter.WINDOWS_FULL)
"""What is missing from the log: rows of allows, and denied packets that no window could count."""

ROW: Final = np.dtype([("ports", "<u4"), ("rule", "<u4"), ("verdict", "u1"), ("reason", "u1"), ("padding", "u1", (2,))])
ENDPOINT: Final = np.dtype(
    [
        ("number", "<u4"),
        ("ready", "<u4"),
        ("attached_ns", "<u8"),
        ("address", "u1", (2, 16)),
        ("set", "<u4", (2,)),
        ("defaults", ROW, (2, 2, 3)),
    ]
)
INDEX: Final = np.dtype("<u4")
WORD: Final = np.dtype("<u8")
ADDRESS_KEY: Final = np.dtype([("prefix", "<u4"), ("address", "u1", (16,))])
PEER: Final = np.dtype([("identity", "<u4", (2,)), ("kind", "u1", (2,)), ("padding", "u1", (2,))])
ROW_KEY: Final = np.dtype([("set", "<u4"), ("identity", "<u4"), ("direction", "<u4")])
PORT_KEY: Final = np.dtype([("prefix", "<u4"), ("row", "<u4"), ("protocol", "u1"), ("port", ">u2"), ("padding", "u1")])
ANSWER: Final = np.dtype([("rule", "<u4"), ("verdict", "u1"), ("reason", "u1"), ("padding", "u1", (2,))])
FLOW_KEY: Final = np.dtype(
    [
        ("local", "u1", (16,)),
        ("remote", "u1", (16,)),
        ("endpoint", "<u4"),
        ("protocol", "u1"),
        ("role", "u1"),
        ("local_port", "<u2"),
        ("remote_port", "<u2"),
        ("padding", "<u2", (3,)),
    ]
)
FLOW: Final = np.dtype(
    [
        ("last_ns", "<u8"),
        ("epoch", "<u4"),
        ("rule", "<u4"),
        ("identity", "<u4"),
        ("sequence", "<u4"),
        ("hash", "<u4"),
        ("direction", "u1"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("state", "u1"),
        ("other", "u1", (16,)),
        ("other_port", "<u2"),
        ("padding", "u1", (6,)),
    ]
)
FRAGMENT_KEY: Final = np.dtype(
    [
        ("endpoint", "<u4"),
        ("id", "<u4"),
        ("direction", "u1"),
        ("protocol", "u1"),
        ("padding", "u1", (2,)),
        ("source", "u1", (16,)),
        ("destination", "u1", (16,)),
    ]
)
WINDOW_KEY: Final = np.dtype(
    [
        ("source", "u1", (16,)),
        ("destination", "u1", (16,)),
        ("endpoint", "<u4"),
        ("rule", "<u4"),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("protocol", "u1"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("flags", "u1"),
    ]
)
WINDOW: Final = np.dtype(
    [
        ("first_ns", "<u8"),
        ("last_ns", "<u8"),
        ("count", "<u4"),
        ("identity", "<u4"),
        ("dialled_port", "<u2"),
        ("tcp_flags", "u1"),
        ("padding", "u1", (5,)),
        ("dialled", "u1", (16,)),
    ]
)
BUDGET: Final = np.dtype([("generation", "<u4"), ("told", "<u4"), ("next", "<u4"), ("padding", "<u4")])
LOCAL_KEY: Final = np.dtype([("address", "u1", (16,))])
ORIGIN: Final = np.dtype(
    [
        ("time_ns", "<u8"),
        ("source", "u1", (16,)),
        ("destination", "u1", (16,)),
        ("hash", "<u4"),
        ("ifindex", "<u4"),
        ("endpoint", "<u4"),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("protocol", "u1"),
        ("confirm", "u1"),
        ("padding", "u1", (6,)),
    ]
)
PLACE: Final = np.dtype([("endpoint", "<u4"), ("number", "<u4")])

CLOSE_KEYS: Final = 48
"""Windows that one BPF_PROG_RUN of ``close_windows`` takes: what fits a page with a frame's head."""


@dataclass(frozen=True, slots=True)
class MapLayout:
    """What a pinned map must be for this version to adopt it (``struct bpf_map_info``)."""

    kind: int
    """``enum bpf_map_type``."""
    key: np.dtype[Any]
    value: np.dtype[Any]


_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _LPM_TRIE = 1, 2, 6, 9, 11
RINGBUF: Final = 27
"""``BPF_MAP_TYPE_RINGBUF``: no keys, no values."""

MAPS: Final = {
    "config": MapLayout(_ARRAY, INDEX, WORD),
    "counters": MapLayout(_PERCPU_ARRAY, INDEX, WORD),
    "endpoints": MapLayout(_HASH, INDEX, ENDPOINT),
    "addresses": MapLayout(_LPM_TRIE, ADDRESS_KEY, PEER),
    "rows": MapLayout(_HASH, ROW_KEY, ROW),
    "ports": MapLayout(_LPM_TRIE, PORT_KEY, ANSWER),
    "flows": MapLayout(_LRU_HASH, FLOW_KEY, FLOW),
    "fragments": MapLayout(_LRU_HASH, FRAGMENT_KEY, np.dtype("u1")),
    "windows_0": MapLayout(_HASH, WINDOW_KEY, WINDOW),
    "windows_1": MapLayout(_HASH, WINDOW_KEY, WINDOW),
    "floods_0": MapLayout(_HASH, WINDOW_KEY, WINDOW),
    "floods_1": MapLayout(_HASH, WINDOW_KEY, WINDOW),
    "places": MapLayout(_LRU_HASH, PLACE, FLOW_KEY),
    "budgets": MapLayout(_HASH, INDEX, BUDGET),
    "locals": MapLayout(_HASH, LOCAL_KEY, INDEX),
    "slots": MapLayout(_ARRAY, INDEX, ORIGIN),
    "cursors": MapLayout(_PERCPU_ARRAY, INDEX, INDEX),
    "origins": MapLayout(_LRU_HASH, INDEX, ORIGIN),
}
"""Name of a map, which is also its pin's name, to its layout; the ring ``events`` besides."""
