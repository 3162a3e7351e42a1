"""Puts what the compiler wants into the maps: the difference only, on the idle side, switched by one word.

Order, so that no packet sees half of a change: rows and ports first (immutable: nothing refers to them yet), then the
idle side of every address and endpoint that changes, then the epoch, then, when no program can still read the old
side, that side too, and last what nothing refers to any more. A new address first copies the identity of what covered
it, so that the old side goes on saying what it said.

A crash between any two steps leaves the side in force whole; the next probe reads the maps back and goes on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from probe.kernel import bpf
from probe.kernel.layout import ADDRESS_KEY, ANSWER, ENDPOINT, PEER, PORT_KEY, ROW, ROW_KEY, Config
from probe.kernel.maps import Map, Maps, as_bytes
from probe.rules import Answer, Desired, Identity, PolicySet, Row

_ZERO: Final = bytes(16)
_WORLD: Final = (0, 2)
"""Identity and kind of an address that no entry covers."""


_SETTING: Final = {"locals": "endpoints"}
"""Maps whose size follows from another's setting."""


class InstallError(RuntimeError):
    """The wanted state does not fit the maps; what was in force stays. The message names the setting."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A local pod and the interface that was found to be its."""

    index: int
    number: int
    uid: str
    addresses: tuple[str, ...]
    older: bool = False
    """Its interface was there before the probe: for a minute, flows without a TCP state may be older ones' replies."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What one change did: entries written or removed, and the epoch in force."""

    addresses: int
    endpoints: int
    rows: int
    ports: int
    epoch: int


def packed(address: str) -> bytes:
    """16 bytes, IPv4 as v4-mapped IPv6."""
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed


class Installer:
    """The writer of the policy maps. One thread."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._rows = maps["rows"].items()
        self._ports = maps["ports"].items()
        self._addresses = maps["addresses"].items()
        self._endpoints = maps["endpoints"].items()
        self._locals = maps["locals"].items()

    @property
    def endpoints(self) -> dict[int, int]:
        """Interface index to endpoint number, as installed."""
        return {
            int.from_bytes(key, "little"): int(np.frombuffer(value, ENDPOINT)["number"][0])
            for key, value in self._endpoints.items()
        }

    def numbers(self) -> dict[str, int]:
        """The highest number of each kind that the maps refer to, for a ledger that was lost."""
        rows = np.frombuffer(b"".join(self._rows) or bytes(ROW_KEY.itemsize), ROW_KEY)
        values = np.frombuffer(b"".join(self._rows.values()) or bytes(ROW.itemsize), ROW)
        peers = np.frombuffer(b"".join(self._addresses.values()) or bytes(PEER.itemsize), PEER)
        ends = np.frombuffer(b"".join(self._endpoints.values()) or bytes(ENDPOINT.itemsize), ENDPOINT)
        answers = np.frombuffer(b"".join(self._ports.values()) or bytes(ANSWER.itemsize), ANSWER)
        ports = np.frombuffer(b"".join(self._ports) or bytes(PORT_KEY.itemsize), PORT_KEY)
        return {
            "identity": int(max(rows["identity"].max(), peers["identity"].max())),
            "set": int(max(rows["set"].max(), ends["set"].max())),
            "row": int(max(ports["row"].max(), values["ports"].max(), ends["defaults"]["ports"].max())),
            "rule": int(max(values["rule"].max(), answers["rule"].max(), ends["defaults"]["rule"].max())),
            "endpoint": int(ends["number"].max()),
        }

    def apply(
        self, desired: Desired, bound: Iterable[Bound], now_ns: int, node_addresses: Iterable[str] = ()
    ) -> Installed:
        """Bring the maps to ``desired`` for the pods in ``bound``. Raises InstallError before anything is in force.

        ``node_addresses`` are all that the node has: behind any of them a masquerade may hide a pod.
        """
        rows = {_row_key(*key): _row(row) for key, row in desired.rows.items()}
        ports = {_port_key(*key): _answer(answer) for key, answer in desired.ports.items()}
        peers = {as_bytes(ADDRESS_KEY, prefix, np.frombuffer(address, "u1")): entry
                 for (address, prefix), entry in desired.ipcache.items()}  # fmt: skip
        ends = {end.index.to_bytes(4, "little"): end for end in bound}
        local = {packed(address): (0).to_bytes(4, "little") for address in node_addresses}
        local |= {packed(address): key for key, end in ends.items() for address in end.addresses}
        self._refuse_what_is_too_large(rows, ports, peers, ends, local)

        epoch = self._maps.config(Config.EPOCH)
        side = epoch & 1
        new_ports = _put(self._maps["ports"], self._ports, ports)
        new_rows = _put(self._maps["rows"], self._rows, rows)
        _put(self._maps["locals"], self._locals, local)
        moved = self._move_addresses(peers, side)
        changed = self._move_endpoints(ends, desired.sets, side, now_ns)
        if moved or changed:
            epoch += 1
            self._maps.configure(Config.EPOCH, epoch)
            bpf.wait_for_programs()
            self._settle_addresses(peers, moved)
            self._settle_endpoints(ends, changed)
            bpf.wait_for_programs()
        _drop(self._maps["locals"], self._locals, local)
        old_rows = _drop(self._maps["rows"], self._rows, rows)
        old_ports = _drop(self._maps["ports"], self._ports, ports)
        return Installed(len(moved), len(changed), new_rows + old_rows, new_ports + old_ports, epoch)

    def _refuse_what_is_too_large(self, *wanted: Mapping[bytes, object]) -> None:
        tables = {
            "rows": self._rows, "ports": self._ports, "addresses": self._addresses, "endpoints": self._endpoints,
            "locals": self._locals,
        }  # fmt: skip
        for (name, installed), entries in zip(tables.items(), wanted, strict=True):
            limit = self._maps[name].max_entries
            # Old and new entries stand side by side until the switch.
            needed = len(entries.keys() | installed.keys())
            if needed > limit:
                setting = f"WEIR_{_SETTING.get(name, name).upper()}"
                raise InstallError(f"{needed} entries for the map {name}, which holds {limit}: raise {setting}")

    def _move_addresses(self, wanted: Mapping[bytes, Identity], side: int) -> list[bytes]:
        """Write the idle side of every address that changes; the keys."""
        covering = _Cover(self._addresses, side)
        # What covers a removed address afterwards is what is wanted for the shorter prefixes.
        after = _Cover({key: _peer((entry.number, entry.kind)) for key, entry in wanted.items()}, side)
        moved = []
        table = self._maps["addresses"]
        for key in wanted.keys() | self._addresses.keys():
            entry = wanted.get(key)
            new = (entry.number, entry.kind) if entry else after.of(key)
            old = _side(self._addresses[key], side) if key in self._addresses else covering.of(key)
            if entry and self._addresses.get(key) == _peer(new):
                continue
            value = _peer(old, new) if side == 0 else _peer(new, old)
            table.set(key, value)
            self._addresses[key] = value
            moved.append(key)
        return moved

    def _settle_addresses(self, wanted: Mapping[bytes, Identity], moved: Iterable[bytes]) -> None:
        table = self._maps["addresses"]
        for key in moved:
            entry = wanted.get(key)
            if entry is None:
                table.drop(key)
                del self._addresses[key]
                continue
            value = _peer((entry.number, entry.kind))
            table.set(key, value)
            self._addresses[key] = value

    def _move_endpoints(
        self, wanted: Mapping[bytes, Bound], sets: Mapping[str, PolicySet], side: int, now_ns: int
    ) -> list[bytes]:
        table = self._maps["endpoints"]
        moved = []
        for key in wanted.keys() | self._endpoints.keys():
            old, end = self._endpoints.get(key), wanted.get(key)
            if end is None:
                # Its interface is gone, or is another pod's: nothing is judged for it any more.
                moved.append(key)
                continue
            value = _endpoint(end, sets[end.uid], old, side, now_ns)
            if value == old:
                continue
            table.set(key, value)
            self._endpoints[key] = value
            moved.append(key)
        return moved

    def _settle_endpoints(self, wanted: Mapping[bytes, Bound], moved: Iterable[bytes]) -> None:
        table = self._maps["endpoints"]
        side = self._maps.config(Config.EPOCH) & 1
        for key in moved:
            if key not in wanted:
                table.drop(key)
                number = np.frombuffer(self._endpoints.pop(key), ENDPOINT)["number"]
                self._maps["budgets"].drop(number.tobytes())
                continue
            value = np.frombuffer(self._endpoints[key], ENDPOINT).copy()
            value["set"][0][1 - side] = value["set"][0][side]
            value["defaults"][0][1 - side] = value["defaults"][0][side]
            table.set(key, value.tobytes())
            self._endpoints[key] = value.tobytes()


class _Cover:
    """The longest shorter prefix that covers an address block."""

    def __init__(self, entries: Mapping[bytes, bytes], side: int) -> None:
        self._by_length: dict[int, dict[int, tuple[int, int]]] = {}
        for key, value in entries.items():
            length = int.from_bytes(key[:4], "little")
            block = int.from_bytes(key[4:20], "big") >> (128 - length)
            self._by_length.setdefault(length, {})[block] = _side(value, side)
        self._lengths = sorted(self._by_length, reverse=True)

    def of(self, key: bytes) -> tuple[int, int]:
        own, address = int.from_bytes(key[:4], "little"), int.from_bytes(key[4:20], "big")
        for length in self._lengths:
            if length < own and (found := self._by_length[length].get(address >> (128 - length))):
                return found
        return _WORLD


def _put(table: Map, installed: dict[bytes, bytes], wanted: Mapping[bytes, bytes]) -> int:
    fresh = [item for item in wanted.items() if installed.get(item[0]) != item[1]]
    for key, value in fresh:
        table.set(key, value)
        installed[key] = value
    return len(fresh)


def _drop(table: Map, installed: dict[bytes, bytes], wanted: Mapping[bytes, bytes]) -> int:
    stale = [key for key in installed if key not in wanted]
    for key in stale:
        table.drop(key)
        del installed[key]
    return len(stale)


def _row(row: Row) -> bytes:
    return as_bytes(ROW, row.ports, row.rule, row.verdict, row.reason, (0, 0))


def _row_key(number: int, direction: int, identity: int) -> bytes:
    return as_bytes(ROW_KEY, number, identity, direction)


def _port_key(row: int, protocol: int, port: int, bits: int) -> bytes:
    return as_bytes(PORT_KEY, 40 + bits, row, protocol, port, 0)


def _answer(answer: Answer) -> bytes:
    return as_bytes(ANSWER, answer.rule, answer.verdict, answer.reason, (0, 0))


def _peer(first: tuple[int, int], second: tuple[int, int] | None = None) -> bytes:
    second = second or first
    return as_bytes(PEER, (first[0], second[0]), (first[1], second[1]), (0, 0))


def _side(value: bytes, side: int) -> tuple[int, int]:
    peer = np.frombuffer(value, PEER)[0]
    return int(peer["identity"][side]), int(peer["kind"][side])


def _endpoint(end: Bound, policy: PolicySet, old: bytes | None, side: int, now_ns: int) -> bytes:
    """The endpoint's new value: the idle side wanted, the other as it was; a new one has both sides wanted."""
    value = np.zeros(1, ENDPOINT)
    kept = np.frombuffer(old, ENDPOINT) if old else None
    same = kept is not None and int(kept["number"][0]) == end.number
    defaults = [[(row.ports, row.rule, row.verdict, row.reason, (0, 0)) for row in kinds] for kinds in policy.defaults]
    value["number"] = end.number
    value["ready"] = 1
    value["attached_ns"] = kept["attached_ns"] if same and kept is not None else now_ns if end.older else 0
    for address in end.addresses:
        slot = 1 if ipaddress.ip_address(address).version == 6 else 0
        value["address"][0][slot] = np.frombuffer(packed(address), "u1")
    value["set"] = policy.number
    for number in (0, 1):
        for direction in (0, 1):
            for kind in range(3):
                value["defaults"][0][number][direction][kind] = defaults[direction][kind]
    if same and kept is not None:
        value["set"][0][side] = kept["set"][0][side]
        value["defaults"][0][side] = kept["defaults"][0][side]
    return value.tobytes()
