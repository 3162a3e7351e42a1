"""Install compiled policy into the kernel's maps: write the differences only, and switch to them by one word.

THEORY OF OPERATION. ``bpf/judge.h`` explains the two sides: the parity of the epoch is the side that every packet
reads. An installation while epoch 6 is in force (side 0):

1. Refuse if the old and new entries together exceed a map. Nothing has been written then, and the caller plans anew
   with less (``probe.admission``). A pod that does not fit ``endpoints`` is left out: it stays absent, and so closed.
2. Write new port entries, then new policy entries. They are immutable, and nothing refers to them yet.
3. Write side 1 of every address and endpoint that changes. Side 0 keeps its meaning: a new address gets, on side 0,
   the identity of the prefix that contained it so far; a new endpoint is absent on side 0, where its pod is closed; an
   interface that was bound to another pod keeps that pod's policy; a removed endpoint is absent on side 1 only.
4. Write epoch 7. From here on every packet is judged by the new state.
5. Wait until no program run that read epoch 6 is in progress.
6. Copy side 1 to side 0, and remove addresses and endpoints that have disappeared.
7. Wait once more, then remove port and policy entries that nothing refers to any longer.

A probe that is killed between any two steps leaves the side in force complete, and so does a write that the kernel
refuses before the switch. The next installation reads the maps back, drops what nothing refers to, compares everything
with the desired state, and continues; after that it looks at changed keys only, until an installation fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from probe.kernel import bpf, endpoints, entries, numbering
from probe.kernel.budgets import Budgets
from probe.kernel.endpoints import Bound, Surroundings
from probe.kernel.entries import Peer
from probe.kernel.layout import LOCAL_NONE, Config
from probe.kernel.maps import Maps
from probe.kernel.plan import Installed, Plan, fitting, own_addresses
from probe.kernel.room import DoesNotFitError
from probe.kernel.sides import SidedTable
from probe.kernel.tables import AddressTable, EntryTable
from probe.policy.desired import AddressKey, Desired, PolicySet
from probe.policy.service_addresses import ServiceAddresses

_SET_IN_KEY: Final = slice(0, 4)
_PORT_LIST_IN_KEY: Final = slice(4, 8)


class Installer:
    """The only writer of the policy maps. It must be used by one thread."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._policy_entries = EntryTable(maps["policy_entries"])
        self._port_entries = EntryTable(maps["port_entries"])
        self._addresses = AddressTable(maps["addresses"])
        self._endpoints = SidedTable(maps["endpoints"], endpoints.ABSENT)
        self._local_addresses = SidedTable(maps["local_addresses"], LOCAL_NONE.to_bytes(4, "little"))
        self._services = ServiceAddresses()
        self.budgets = Budgets(maps)
        self._made_of: dict[bytes, tuple[Bound, PolicySet]] = {}
        """What each endpoint's value was made of, to skip those that do not change."""
        self._installed: Desired | None = None
        """The state that the maps equal except for its changed keys; None if everything must be compared."""
        self._is_read_back = False
        """Whether the mirrors hold what the last installation left, if it did not end."""
        self.before_switch: Callable[[], None] = lambda: None
        """Called before each switch to a new state, when the compiler has all of its rules. It raises nothing."""
        self._refused_at: dict[str, int] = {}
        """Entries in a map when the kernel refused one more, before it was full."""

    @property
    def endpoints(self) -> dict[int, int]:
        """Interface index to endpoint number, for the state in force."""
        side = self._side()
        numbers = {key: endpoints.number_of(self._endpoints.in_force(key, side)) for key in self._endpoints.values}
        return {int.from_bytes(key, "little"): number for key, number in numbers.items() if number}

    @property
    def sets_in_force(self) -> frozenset[int]:
        """The numbers of the policy sets that endpoints have, in the state in force."""
        side = self._side()
        return frozenset(endpoints.set_of(self._endpoints.in_force(key, side)) for key in self._endpoints.values)

    def numbers(self) -> dict[str, int]:
        """Return the highest number of each kind in the maps, so that a ledger that was lost does not reuse one."""
        return {kind: max(found, default=0) for kind, found in self.references().items()}

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger that the policy maps have, on either side, by kind."""
        return numbering.references(
            self._policy_entries.values, self._port_entries.values, self._addresses.values, self._endpoints.values
        )

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return the number of entries and the capacity of each map that user space fills, and of what is lent."""
        tables = self._tables() | {"local_addresses": self._local_addresses.values}
        used = {name: (len(table), self._maps[name].max_entries) for name, table in tables.items()}
        return used | self.budgets.usage()

    def limit(self, name: str) -> int:
        """Return how many entries a map takes: its size, or fewer if the kernel refused one lately."""
        return min(self._maps[name].max_entries, self._refused_at.get(name, 1 << 32))

    def forget_refusals(self) -> None:
        """Believe the maps' sizes again: the kernel may have memory now that it lacked."""
        self._refused_at.clear()

    def apply(
        self,
        desired: Desired,
        bound: Iterable[Bound],
        now_ns: int,
        surroundings: Surroundings | None = None,
        switched: Callable[[], None] | None = None,
    ) -> Installed:
        """Plan and install. Raises DoesNotFitError, before anything that is in force has changed."""
        return self.install(self.plan(desired, bound, now_ns, surroundings), switched)

    def plan(
        self,
        desired: Desired,
        bound: Iterable[Bound],
        now_ns: int,
        surroundings: Surroundings | None = None,
        omit: Collection[AddressKey] = (),
    ) -> Plan:
        """Compare ``desired``, for the pods in ``bound``, with what is installed. Raises DoesNotFitError.

        Addresses in ``omit`` are left out: they have the meaning of the prefixes around them.
        """
        side = self._side()
        whole = desired is not self._installed
        if not self._is_read_back:
            self._read_back(side)
        around = surroundings or Surroundings()
        addresses = self._address_changes(desired, around.services, omit, whole=whole)
        changed = desired.changed_keys
        policy_entries: dict[bytes, bytes | None] = dict.fromkeys(self._policy_entries.values) if whole else {}
        for policy_key in desired.policy_entries if whole else changed.policy_entries:
            policy = desired.policy_entries.get(policy_key)
            packed = None if policy is None else entries.policy_entry(*policy)
            policy_entries[entries.policy_key(*policy_key)] = packed
        port_entries: dict[bytes, bytes | None] = dict.fromkeys(self._port_entries.values) if whole else {}
        for port_key in desired.port_entries if whole else changed.port_entries:
            port = desired.port_entries.get(port_key)
            port_entries[entries.port_key(*port_key)] = None if port is None else entries.port_entry(*port)
        bound = list(bound)
        own = self._own_addresses(desired, bound, around.node)
        fits, left_out = self._fitting(bound, own)
        ends = {endpoints.endpoint_key(end): end for end in fits}
        plan = Plan(
            desired,
            ends,
            left_out,
            omit,
            self._policy_entries.changed(policy_entries),
            self._port_entries.changed(port_entries),
            self._addresses.changed(addresses),
            self._endpoint_changes(ends, desired.policy_sets, side, now_ns),
            self._local_changes(ends, own),
            len(around.node) - len(own),
        )
        tables = self._tables()
        limits = {name: self.limit(name) for name in tables}
        plan.check_capacity(tables, {name: len(table) for name, table in tables.items()}, limits)
        return plan

    def install(self, plan: Plan, switched: Callable[[], None] | None = None) -> Installed:
        """Install a plan that was made last.

        ``switched`` is called as soon as the new state is in force, before the old one is removed. Raises
        DoesNotFitError if the kernel refuses a write although there is room, and OSError.
        """
        self._installed, self._is_read_back = None, False
        try:
            epoch, moments = self._write(plan, switched)
        except DoesNotFitError as error:
            self._refused_at[error.table] = error.limit
            raise
        desired = plan.desired
        self._made_of = {key: (end, desired.policy_sets[end.uid]) for key, end in plan.ends.items()}
        desired.changed_keys.clear()
        # They are compared again by the next plan, which may have room for them.
        desired.changed_keys.addresses.update(plan.omitted)
        self._installed, self._is_read_back = desired, True
        return Installed(
            len(plan.addresses), len(plan.endpoints), len(plan.policy_entries), len(plan.port_entries), epoch, moments
        )

    def _write(self, plan: Plan, switched: Callable[[], None] | None) -> tuple[int, tuple[int, int] | None]:
        """Write a plan in the order that the module describes; return the epoch that is in force then, and the moments
        before and after the switch to it."""
        epoch, moments = self._maps.config(Config.EPOCH), None
        side = epoch & 1
        self.budgets.assign(end.number for end in plan.ends.values())
        self.before_switch()
        self._port_entries.put(plan.port_entries)
        self._policy_entries.put(plan.policy_entries)
        self._addresses.move(plan.addresses, side)
        self._local_addresses.move(plan.local_addresses, side)
        self._endpoints.move(plan.endpoints, side)
        if plan.addresses or plan.local_addresses or plan.endpoints:
            epoch += 1
            before = time.monotonic_ns()
            self._maps.configure(Config.EPOCH, epoch)
            moments = before, time.monotonic_ns()
            if switched:
                switched()
            bpf.wait_for_programs()
            self._addresses.settle(plan.addresses)
            self._local_addresses.settle(plan.local_addresses)
            self._endpoints.settle(plan.endpoints)
        elif switched:
            switched()
        if None in plan.policy_entries.values() or None in plan.port_entries.values():
            bpf.wait_for_programs()
            self._policy_entries.drop(plan.policy_entries)
            self._port_entries.drop(plan.port_entries)
        self.budgets.retain(end.number for end in plan.ends.values())
        return epoch, moments

    def _side(self) -> int:
        return self._maps.config(Config.EPOCH) & 1

    def _tables(self) -> dict[str, dict[bytes, bytes]]:
        """Return what the policy maps hold. The setting that gives a map's size has the map's name."""
        tables = (self._policy_entries, self._port_entries, self._addresses, self._endpoints)
        return {table.name: table.values for table in tables}

    def _read_back(self, side: int) -> None:
        """Continue from the state in force, and remove what an installation that did not end has left."""
        self._addresses.read_back(side)
        self._made_of.clear()
        bpf.wait_for_programs()
        ends = self._endpoints.values
        self._policy_entries.drop_unless(numbering.sets_of_endpoints(ends), _SET_IN_KEY)
        lists = numbering.port_lists_of(self._policy_entries.values, ends)
        self._port_entries.drop_unless(lists, _PORT_LIST_IN_KEY)
        if len(self._addresses.values) >= self.limit("addresses"):
            self._addresses.drop_redundant(side)
        self._is_read_back = True

    def _address_changes(
        self, desired: Desired, services: Iterable[str], omit: Collection[AddressKey], *, whole: bool
    ) -> dict[bytes, Peer | None]:
        changed = desired.changed_keys.addresses
        of_services = self._services.changed_entries(desired, services, whole=whole)
        # A plan that is not installed leaves them to the next one.
        changed.update(of_services)
        peers: dict[bytes, Peer | None] = dict.fromkeys(self._addresses.values) if whole else {}
        for address in desired.addresses if whole else changed:
            identity = desired.addresses.get(address)
            peers[entries.address_key(*address)] = None if identity is None else (identity.number, identity.kind)
        for address, identity in of_services.items():
            peers[entries.address_key(*address)] = None if identity is None else (identity.number, identity.kind)
        return peers | {entries.address_key(*address): None for address in omit}

    def _own_addresses(
        self, desired: Desired, bound: Iterable[Bound], node_addresses: Collection[str]
    ) -> frozenset[str]:
        ends = endpoints.local_addresses({endpoints.endpoint_key(end): end for end in bound}, ()).keys()
        known, limit = self._local_addresses.values.keys(), self.limit("local_addresses")
        return own_addresses(node_addresses, ends, known, limit, desired.addresses)

    def _fitting(self, bound: Sequence[Bound], node: Collection[str]) -> tuple[list[Bound], list[Bound]]:
        known, local = self._endpoints.values, self._local_addresses.values
        room = self.limit("endpoints") - len(known)
        local_room = self.limit("local_addresses") - len(local)
        local_room -= sum(key not in local for key in endpoints.local_addresses({}, node))
        return fitting(bound, known, room, local, local_room)

    def _endpoint_changes(
        self, ends: Mapping[bytes, Bound], sets: Mapping[str, PolicySet], side: int, now_ns: int
    ) -> dict[bytes, bytes | None]:
        """Compare the endpoints with the installed ones; None: the interface is gone, or has no pod any more."""
        desired: dict[bytes, bytes | None] = dict.fromkeys(self._endpoints.values.keys() - ends.keys())
        for key, end in ends.items():
            if key not in self._endpoints.values or self._made_of.get(key) != (end, sets[end.uid]):
                desired[key] = endpoints.pack(end, sets[end.uid], self._endpoints.in_force(key, side), now_ns)
        return self._endpoints.changed(desired)

    def _local_changes(self, ends: Mapping[bytes, Bound], node: Iterable[str]) -> dict[bytes, bytes | None]:
        local = endpoints.local_addresses(ends, node)
        desired: dict[bytes, bytes | None] = dict.fromkeys(self._local_addresses.values.keys() - local.keys())
        desired |= {key: index.to_bytes(4, "little") for key, index in local.items()}
        return self._local_addresses.changed(desired)
