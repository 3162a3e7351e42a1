"""Policy maps in memory, as small and as unwilling as a test wants them; and what the programs find in them."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping

import numpy as np

from enrich.policy.matching import Direction
from enrich.wire.batch import Reason, Verdict
from probe.kernel import entries
from probe.kernel.layout import BUDGET, ENDPOINT, INDEX, PLACE, Array, Config
from probe.policy.desired import WORLD, host_key
from tests.probe.policy.kernel_model import Outcome

_NAMES = (
    "policy_entries", "port_entries", "addresses", "endpoints", "local_addresses", "logged_rules", "logged_subjects",
)  # fmt: skip
_PREALLOCATED = ("budgets", "deny_windows_0", "fragment_places", "limits", "places")
"""Maps that never refuse an insertion for lack of memory."""
_POLICY_ENTRY = struct.Struct("<IIBB2x")
_PORT_ENTRY = struct.Struct("<IBB2x")


class MemoryMap:
    """A map that refuses insertions when it is full, and whenever ``refuses`` returns true."""

    def __init__(self, name: str, max_entries: int, refuses: Callable[[], bool]) -> None:
        self.name, self.max_entries, self._refuses = name, max_entries, refuses
        self.content: dict[bytes, bytes] = {}

    def items(self) -> dict[bytes, bytes]:
        return dict(self.content)

    def get(self, key: bytes) -> np.void | None:
        """Return a budget."""
        value = self.content.get(key)
        return None if value is None else np.frombuffer(value, BUDGET)[0]

    def entries(self) -> tuple[Array, Array]:
        """Return the numbers and the contents of places."""
        return np.frombuffer(b"".join(self.content), INDEX), np.frombuffer(b"".join(self.content.values()), PLACE)

    def set(self, key: bytes, value: bytes) -> None:
        if key not in self.content and len(self.content) >= self.max_entries:
            raise OSError(errno.E2BIG, "full")
        if self._refuses():
            raise OSError(errno.ENOMEM, "no memory")
        self.content[key] = value

    def drop(self, key: bytes) -> None:
        self.content.pop(key, None)


class MemoryMaps:
    """What an installer needs of :class:`probe.kernel.maps.Maps`."""

    def __init__(self, sizes: Mapping[str, int], refuses: Callable[[], bool] = lambda: False) -> None:
        self._maps = {name: MemoryMap(name, sizes.get(name, 1 << 20), refuses) for name in _NAMES}
        self._maps |= {name: MemoryMap(name, 1 << 20, lambda: False) for name in _PREALLOCATED}
        self._config: dict[Config, int] = {}

    def __getitem__(self, name: str) -> MemoryMap:
        return self._maps[name]

    def config(self, word: Config) -> int:
        return self._config.get(word, 0)

    def configure(self, word: Config, value: int) -> None:
        self._config[word] = value

    def outcome(self, index: int, direction: Direction, peer_ip: str, protocol: int, port: int) -> Outcome:
        """Decide about the first packet of a connection, by the steps of ``bpf/judge.h``."""
        side = self.config(Config.EPOCH) & 1
        value = self["endpoints"].content.get(index.to_bytes(4, "little"), bytes(2 * ENDPOINT.itemsize))
        endpoint = np.frombuffer(value, ENDPOINT)[side]
        if not endpoint["number"]:
            return Outcome(Verdict.DENY, Reason.NOT_READY, 0)
        identity, kind = self._peer(peer_ip, side)
        key = entries.policy_key(int(endpoint["set"]), int(direction), identity)
        found = self["policy_entries"].content.get(key)
        if found is None:
            default = endpoint["defaults"][direction][kind if kind <= WORLD else WORLD]
            port_list, rule, verdict, reason = (
                int(default[name]) for name in ("port_list", "rule", "verdict", "reason")
            )
        else:
            port_list, rule, verdict, reason = _POLICY_ENTRY.unpack(found)
        for bits in range(16, -1, -1) if port_list else ():
            masked = port >> (16 - bits) << (16 - bits)
            entry = self["port_entries"].content.get(entries.port_key(port_list, protocol, masked, bits))
            if entry is not None:
                rule, verdict, reason = _PORT_ENTRY.unpack(entry)
                break
        return Outcome(verdict, reason, rule)

    def _peer(self, ip: str, side: int) -> tuple[int, int]:
        address = int.from_bytes(host_key(ip)[0], "big")
        for length in range(128, -1, -1):
            masked = (address >> (128 - length) << (128 - length)).to_bytes(16, "big")
            value = self["addresses"].content.get(entries.address_key(masked, length))
            if value is not None:
                return entries.peer_on(value, side)
        return 0, WORLD
