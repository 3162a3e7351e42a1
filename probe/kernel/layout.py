"""The structs of ``bpf/layout.h`` as numpy dtypes, the words of ``config`` and the counters. Comments are there.

``tests/kernel/test_layout.py`` compares offsets and sizes with the compiler's, and sizes with the loaded maps.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

VERSION: Final = "v6"
"""Version of the layout. It is part of the pin path, so that maps of different layouts never share a pin. Fields keep
their names, and words and counters their index, in all versions (``probe.kernel.description``)."""


class Config(enum.IntEnum):
    """Index into ``config``. Each value is a u64, read and written as one word."""

    EPOCH = 0
    DENY_WINDOW = 1
    WINDOW_NS = 2
    POD_DENIED_FLOWS = 3
    RING_ID = 4
    POD_CONNECTIONS = 5
    ENCAPSULATION = 6
    LOCAL_SOURCE = 7
    LENT_FROM = 8
    POD_FRAGMENTS = 9
    LOGGING = 10
    LIMIT_ALLOWED = 11
    LIMIT_DENIED = 12
    ANY_SOURCE_PORT = 13
    ANY_FRAME = 14


class Counter(enum.IntEnum):
    """Index into ``counters``, which are u64 per CPU."""

    RING_FULL = 0
    DENY_WINDOWS_FULL = 1
    DEFERRED = 2
    AGGREGATED = 3
    UNPARSABLE = 4
    NOT_IP = 5
    FLOODED = 6
    FRAGMENT_DROPPED = 7
    CONNECTIONS_FULL = 8
    NEIGHBOUR_DROPPED = 9
    ENCAPSULATION = 10
    UNKNOWN_FLOW = 11
    LOOKUPS_SPARED = 12
    EVICTIONS = 13
    FRAGMENT_EVICTIONS = 14
    CUT_ALLOWED = 15
    CUT_DENIED = 16
    LIMITED_ALLOWED = 17
    LIMITED_DENIED = 18
    ENDS_LOST = 19
    ENDS_UNPLACED = 20
    ENDS_UNCERTAIN = 21
    FOREIGN_FRAME = 22
    DECIDED = 28
    WRITTEN = 29
    RING_VERDICTS = 30


CHUNKS: Final = 1023
"""Chunks of slots for origins. A CPU goes from chunk to chunk by a stride that is coprime with this number."""

POLICY_ENTRY: Final = np.dtype(
    [("port_list", "<u4"), ("rule", "<u4"), ("verdict", "u1"), ("reason", "u1"), ("padding", "u1", (2,))]
)
ENDPOINT: Final = np.dtype(
    [
        ("number", "<u4"),
        ("set", "<u4"),
        ("attached_ns", "<u8"),
        ("address", "u1", (2, 16)),
        ("defaults", POLICY_ENTRY, (2, 3)),
    ]
)
ENDPOINT_SIDES: Final = np.dtype([("side", ENDPOINT, (2,))])
LINK_ADDRESS: Final = np.dtype(
    [("link_local", "u1", (16,)), ("address", "u1", (6,)), ("is_fixed", "u1"), ("padding", "u1")]
)
INDEX: Final = np.dtype("<u4")
WORD: Final = np.dtype("<u8")
BYTE: Final = np.dtype("u1")
ADDRESS_KEY: Final = np.dtype([("prefix", "<u4"), ("address", "u1", (16,))])
PEER: Final = np.dtype([("identity", "<u4", (2,)), ("kind", "u1", (2,)), ("padding", "u1", (2,))])
POLICY_KEY: Final = np.dtype([("set", "<u4"), ("identity", "<u4"), ("direction", "<u4")])
PORT_KEY: Final = np.dtype(
    [("prefix", "<u4"), ("port_list", "<u4"), ("protocol", "u1"), ("port", ">u2"), ("padding", "u1")]
)
LIMIT: Final = np.dtype([("second", "<u8"), ("taken", "<u8")])
LIMITED_KEY: Final = np.dtype([("endpoint", "<u4"), ("verdict", "<u4")])
LOGGED_RULE: Final = np.dtype([("rule", "<u4")])
PORT_ENTRY: Final = np.dtype([("rule", "<u4"), ("verdict", "u1"), ("reason", "u1"), ("padding", "u1", (2,))])
CONNECTION_KEY: Final = np.dtype(
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
CONNECTION: Final = np.dtype(
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
        ("check", "u1"),
        ("padding", "u1"),
        ("sent", "<u4", (2,)),
        ("place", "<u4"),
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
FRAGMENT: Final = np.dtype(
    [
        ("time_ns", "<u8"),
        ("connection", CONNECTION_KEY),
        ("epoch", "<u4"),
        ("verdict", "u1"),
        ("padding", "u1"),
        ("extent", "<u2"),
    ]
)
VERDICT_KEY: Final = np.dtype(
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
DENY_WINDOW: Final = np.dtype(
    [
        ("first_ns", "<u8"),
        ("last_ns", "<u8"),
        ("count", "<u4"),
        ("identity", "<u4"),
        ("dialled_port", "<u2"),
        ("tcp_flags", "u1"),
        ("account", "u1"),
        ("payer", "<u4"),
        ("dialled", "u1", (16,)),
        ("source_port", "<u2"),
        ("padding", "<u2", (3,)),
    ]
)
COUNTED_DENIED_FLOWS, COUNTED_LOOKUPS = 0, 1
"""``enum counted``: what is counted from 0 on in each period."""
TAKEN: Final = np.dtype([("period", "<u4"), ("by_account", "<u4", (2,))])
USAGE: Final = np.dtype([("next", "<u4"), ("borrowed", "<u4"), ("next_fragment", "<u4"), ("turn", "<u4")])
BUDGET: Final = np.dtype(
    [
        ("slot", "<u4"),
        ("spared", "<u4"),
        ("taken", TAKEN, (2,)),
        ("account", USAGE, (2,)),
        ("evicted", "<u8"),
    ]
)
NO_SLOT: Final = 0xFFFFFFFF
"""Slot of a budget without a reserve."""
LENT: Final = 0xFFFFFFFF
"""Key of the budget of what is lent of all tables together."""
LOCAL_KEY: Final = np.dtype([("address", "u1", (16,))])
LOCAL: Final = np.dtype([("ifindex", "<u4", (2,))])
LOCAL_NODE, LOCAL_NONE = 0, 0xFFFFFFFF
"""Interface indexes of an address of the node itself, and of one that is not local on that side."""
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
        ("fragment", "u1"),
        ("padding", "u1"),
        ("counted", "<u4"),
    ]
)
BACKEND: Final = np.dtype([("time_ns", "<u8"), ("address", "u1", (16,)), ("port", "<u2"), ("padding", "<u2", (3,))])
PLACE: Final = np.dtype([("key", CONNECTION_KEY), ("payer", "<u4"), ("account", "<u4")])
UNKNOWN_FLOW: Final = np.dtype(
    [
        ("key", CONNECTION_KEY),
        ("payer", "<u4"),
        ("account", "u1"),
        ("direction", "u1"),
        ("just_attached", "u1"),
        ("padding", "u1"),
    ]
)
LOOKUPS: Final = 64
"""Flows that an account may have looked up in about a second (``bpf/adoption.h``)."""

EXPIRE_PLACES: Final = 64
"""Places that one run of ``expire_places`` looks at."""
CLOSE_KEYS: Final = 48
"""Keys in one request to ``close_windows``: BPF_PROG_RUN takes at most a page of input."""


@dataclass(frozen=True, slots=True)
class MapLayout:
    """The properties that a pinned map must have to be adopted (``struct bpf_map_info``)."""

    kind: int
    """``enum bpf_map_type``."""
    key: np.dtype[Any]
    value: np.dtype[Any]

    @property
    def properties(self) -> tuple[int, int, int]:
        """Type, key size and value size, as the kernel reports them of a map."""
        return self.kind, self.key.itemsize, self.value.itemsize


_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _LPM_TRIE, _ARRAY_OF_MAPS = 1, 2, 6, 9, 11, 12
RINGBUF: Final = 27
"""``BPF_MAP_TYPE_RINGBUF``, which has neither keys nor values."""

MAPS: Final = {
    "config": MapLayout(_ARRAY, INDEX, WORD),
    "counters": MapLayout(_PERCPU_ARRAY, INDEX, WORD),
    "endpoints": MapLayout(_HASH, INDEX, ENDPOINT_SIDES),
    "link_addresses": MapLayout(_HASH, INDEX, LINK_ADDRESS),
    "addresses": MapLayout(_LPM_TRIE, ADDRESS_KEY, PEER),
    "policy_entries": MapLayout(_HASH, POLICY_KEY, POLICY_ENTRY),
    "port_entries": MapLayout(_LPM_TRIE, PORT_KEY, PORT_ENTRY),
    "connections": MapLayout(_LRU_HASH, CONNECTION_KEY, CONNECTION),
    "fragments": MapLayout(_LRU_HASH, FRAGMENT_KEY, FRAGMENT),
    "deny_windows_0": MapLayout(_HASH, VERDICT_KEY, DENY_WINDOW),
    "deny_windows_1": MapLayout(_HASH, VERDICT_KEY, DENY_WINDOW),
    "floods_0": MapLayout(_HASH, VERDICT_KEY, DENY_WINDOW),
    "floods_1": MapLayout(_HASH, VERDICT_KEY, DENY_WINDOW),
    "fragment_places": MapLayout(_HASH, INDEX, FRAGMENT_KEY),
    "places": MapLayout(_HASH, INDEX, PLACE),
    "emptying": MapLayout(_HASH, INDEX, WORD),
    "budgets": MapLayout(_HASH, INDEX, BUDGET),
    "local_addresses": MapLayout(_HASH, LOCAL_KEY, LOCAL),
    "tunnel_ports": MapLayout(_ARRAY, INDEX, WORD),
    "logged_rules": MapLayout(_HASH, INDEX, LOGGED_RULE),
    "logged_subjects": MapLayout(_HASH, INDEX, BYTE),
    "limits": MapLayout(_ARRAY, INDEX, LIMIT),
    "limited": MapLayout(_HASH, LIMITED_KEY, WORD),
    "slots": MapLayout(_ARRAY, INDEX, ORIGIN),
    "cursors": MapLayout(_PERCPU_ARRAY, INDEX, INDEX),
    "origins": MapLayout(_LRU_HASH, INDEX, ORIGIN),
    "unready_origins": MapLayout(_ARRAY, INDEX, ORIGIN),
    "backends": MapLayout(_LRU_HASH, CONNECTION_KEY, BACKEND),
    "other_table": MapLayout(_ARRAY_OF_MAPS, INDEX, INDEX),
    "looked_up": MapLayout(_LRU_HASH, CONNECTION_KEY, WORD),
}
"""Layout by map name, which is also the name of the pin. The ring buffers are not listed."""


class ConnectionState(enum.IntFlag):
    """Bits of a connection's ``state``, as far as user space writes them."""

    REPLIED = 0x01
    DIALLED = 0x08
    EXIT = 0x10
    OTHER = 0x20
    ADOPTED = 0x40


def distinct(*numbers: Array) -> set[int]:
    """Return the distinct numbers in these arrays, without 0, which stands for none."""
    return set().union(*(np.unique(array).tolist() for array in numbers)) - {0}
