"""Puts what the compiler wants into the maps: the difference only, on the idle side, switched by one word.

Order, so that no packet sees half of a change: rows and ports first (immutable: nothing refers to them yet), then the
idle side of every address and endpoint that changes, then the epoch, then, when no program can still read the old
side, that side too, and last what nothing refers to any more. A new address first copies the identity of what covered
it, so that the old side goes on saying what it said.

A crash between any two steps leaves the side in force whole; the next probe reads the maps back and goes on.

The first change, and one after a failure, compares everything; any other looks at the touched keys only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from probe.kernel import bpf, entries
from probe.kernel.entries import Peer
from probe.kernel.layout import ANSWER, ENDPOINT, PEER, PORT_KEY, ROW, ROW_KEY, Config
from probe.kernel.lpm import Cover
from probe.kernel.maps import Map, Maps
from probe.policy.desired import Desired, PolicySet
from probe.policy.service_addresses import ServiceAddresses

_TABLES = ("rows", "ports", "addresses", "endpoints")
"""Maps that a setting gives the size of."""


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
class Surroundings:
    """Addresses that are no pod's."""

    services: frozenset[str] = frozenset()
    """What clients of ServiceAddresses dial: cluster IPs, external IPs, load balancers' IPs."""
    node: frozenset[str] = frozenset()
    """All that the node has: behind any of them a masquerade may hide a pod."""


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
        self._services = ServiceAddresses()
        self._cover = Cover()
        self._placed: dict[bytes, tuple[Bound, PolicySet]] = {}
        """What the endpoints' entries were made of."""
        self._installed: Desired | None = None
        """What the maps equal, but for its touched keys."""

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

    def usage(self) -> dict[str, tuple[int, int]]:
        """For each map the entries in it, and how many it holds."""
        tables = (self._rows, self._ports, self._addresses, self._endpoints)
        return {name: (len(table), self._maps[name].max_entries) for name, table in zip(_TABLES, tables, strict=True)}

    def apply(
        self,
        desired: Desired,
        bound: Iterable[Bound],
        now_ns: int,
        surroundings: Surroundings | None = None,
        switched: Callable[[], None] | None = None,
    ) -> Installed:
        """Bring the maps to ``desired`` for the pods in ``bound``. Raises InstallError before anything is in force.

        ``switched`` is called when the new state is in force, before the old one is cleared away.
        """
        epoch = self._maps.config(Config.EPOCH)
        side = epoch & 1
        whole = desired is not self._installed
        self._installed = None
        if whole:
            self._cover = Cover.of({key: entries.peer_on(value, side) for key, value in self._addresses.items()})
        around = surroundings or Surroundings()
        rows, ports, peers = self._changes(desired, around.services, whole=whole)
        ends = {end.index.to_bytes(4, "little"): end for end in bound}
        self._refuse_what_is_too_large(rows, ports, peers, ends)
        local = _locals(ends, around.node)

        _put(self._maps["ports"], self._ports, ports)
        _put(self._maps["rows"], self._rows, rows)
        _put(self._maps["locals"], self._locals, local)
        self._move_addresses(peers, side)
        changed = self._move_endpoints(ends, desired.policy_sets, side, now_ns)
        if peers or changed:
            epoch += 1
            self._maps.configure(Config.EPOCH, epoch)
            if switched:
                switched()
            bpf.wait_for_programs()
            self._settle_addresses(peers)
            self._settle_endpoints(ends, changed)
        if any(value is None for value in (*rows.values(), *ports.values())):
            bpf.wait_for_programs()
            _drop(self._maps["rows"], self._rows, rows)
            _drop(self._maps["ports"], self._ports, ports)
        _drop(self._maps["locals"], self._locals, {key: local.get(key) for key in self._locals})
        desired.changed_keys.clear()
        self._installed = desired
        return Installed(len(peers), len(changed), len(rows), len(ports), epoch)

    def _changes(
        self, desired: Desired, services: Iterable[str], *, whole: bool
    ) -> tuple[dict[bytes, bytes | None], dict[bytes, bytes | None], dict[bytes, Peer | None]]:
        """What is to be written (None: removed) of rows, ports and addresses."""
        changed_keys = desired.changed_keys
        rows: dict[bytes, bytes | None] = dict.fromkeys(self._rows) if whole else {}
        for row_key in desired.policy_entries if whole else changed_keys.policy_entries:
            row = desired.policy_entries.get(row_key)
            rows[entries.row_key(*row_key)] = None if row is None else entries.row(*row)
        ports: dict[bytes, bytes | None] = dict.fromkeys(self._ports) if whole else {}
        for port_key in desired.port_entries if whole else changed_keys.port_entries:
            answer = desired.port_entries.get(port_key)
            ports[entries.port_key(*port_key)] = None if answer is None else entries.answer(*answer)
        peers: dict[bytes, Peer | None] = dict.fromkeys(self._addresses) if whole else {}
        for address in desired.ipcache if whole else changed_keys.addresses:
            identity = desired.ipcache.get(address)
            peers[entries.address_key(*address)] = None if identity is None else (identity.number, identity.kind)
        for address, identity in self._services.changed_entries(desired, services, whole=whole).items():
            peers[entries.address_key(*address)] = None if identity is None else (identity.number, identity.kind)
        return (
            {key: value for key, value in rows.items() if self._rows.get(key) != value},
            {key: value for key, value in ports.items() if self._ports.get(key) != value},
            {key: value for key, value in peers.items() if self._addresses.get(key) != _both(value)},
        )

    def _refuse_what_is_too_large(self, *wanted: Mapping[bytes, object]) -> None:
        tables = (self._rows, self._ports, self._addresses, self._endpoints)
        for name, changes, installed in zip(_TABLES, wanted, tables, strict=True):
            limit = self._maps[name].max_entries
            # Old and new entries stand side by side until the switch.
            needed = len(installed) + sum(value is not None and key not in installed for key, value in changes.items())
            if needed > limit:
                raise InstallError(
                    f"{needed} entries for the map {name}, which holds {limit}: raise WEIR_{name.upper()}"
                )

    def _move_addresses(self, wanted: Mapping[bytes, Peer | None], side: int) -> None:
        """Write the idle side of every address that changes."""
        before = {
            key: entries.peer_on(self._addresses[key], side) if key in self._addresses else self._cover.of_key(key)
            for key in wanted
        }
        for key, peer in wanted.items():
            self._cover.set(key, peer)
        for key, peer in wanted.items():
            # A removed address is, from then on, what the shorter prefixes around it are.
            old, new = before[key], peer or self._cover.of_key(key)
            self._write_address(key, entries.peer(old, new) if side == 0 else entries.peer(new, old))

    def _settle_addresses(self, wanted: Mapping[bytes, Peer | None]) -> None:
        for key, peer in wanted.items():
            if peer is not None:
                self._write_address(key, entries.peer(peer, peer))
            elif key in self._addresses:
                self._maps["addresses"].drop(key)
                del self._addresses[key]

    def _write_address(self, key: bytes, value: bytes) -> None:
        self._maps["addresses"].set(key, value)
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
            made_of = (end, sets[end.uid])
            if old is not None and self._placed.get(key) == made_of:
                continue
            value = _endpoint(end, sets[end.uid], old, side, now_ns)
            self._placed[key] = made_of
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
                self._placed.pop(key, None)
                continue
            value = np.frombuffer(self._endpoints[key], ENDPOINT).copy()
            value["set"][0][1 - side] = value["set"][0][side]
            value["defaults"][0][1 - side] = value["defaults"][0][side]
            table.set(key, value.tobytes())
            self._endpoints[key] = value.tobytes()


def _locals(ends: Mapping[bytes, Bound], node: Iterable[str]) -> dict[bytes, bytes | None]:
    """Which interface an address of this node is behind; 0: the node's own."""
    made: dict[bytes, bytes | None] = {packed(address): bytes(4) for address in node}
    return made | {packed(address): key for key, end in ends.items() for address in end.addresses}


def _put(table: Map, installed: dict[bytes, bytes], changes: Mapping[bytes, bytes | None]) -> None:
    for key, value in changes.items():
        if value is not None and installed.get(key) != value:
            table.set(key, value)
            installed[key] = value


def _drop(table: Map, installed: dict[bytes, bytes], changes: Mapping[bytes, bytes | None]) -> None:
    for key, value in changes.items():
        if value is None and key in installed:
            table.drop(key)
            del installed[key]


def _both(peer: Peer | None) -> bytes | None:
    return None if peer is None else entries.peer(peer, peer)


def _endpoint(end: Bound, policy: PolicySet, old: bytes | None, side: int, now_ns: int) -> bytes:
    """The endpoint's new value: the idle side wanted, the other as it was; a new one has both sides wanted."""
    value = np.zeros(1, ENDPOINT)
    kept = np.frombuffer(old, ENDPOINT) if old else None
    same = kept is not None and int(kept["number"][0]) == end.number
    defaults = [
        [(row.port_list, row.rule, row.verdict, row.reason, (0, 0)) for row in kinds] for kinds in policy.defaults
    ]
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
