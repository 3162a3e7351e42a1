"""Which answers of the index may have changed, for readers that keep answers.

THEORY OF OPERATION

A reader that keeps what it has looked up must forget it when it is no longer true. A cluster of 100,000 pods changes a
hundred times a second, so a reader must not forget everything at each change. Instead, every change names *keys*, and
an answer is kept together with the keys that it was made from:

=================== ======================================================================================
key                 answers that it stands for
=================== ======================================================================================
address, 10.0.0.1   who had the address: intervals of pods, the node, the Service or slice that has it
pod, UID            the pod as it was last seen and before it changed, and whether it is known at all
node_port, (6, 80)  the Service that is dialled by a protocol and a port at the addresses of nodes
node, name          the zone of a node, now and before, which a record has for each pod on it
workload, name      what owns a ReplicaSet or Job, now and before, which a record has for each of its pods
anybody             whether an address without a pod is likely a pod's: pods have appeared in a new range
=================== ======================================================================================

An example: pod web-1 with 10.0.0.1 is deleted. The keys are (pod, its UID) and (address, 10.0.0.1); a reader forgets
the two answers that have them and keeps the other 99,999 pods.

A writer adds keys *after* the index has changed, and a reader takes them *before* it looks anything up. So an answer
that is older than a change is either not made yet when its key is taken, or its key is still to come.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import Final, Literal, NamedTuple

from enrich.model import EndpointSlice, Name, Node, Object, Service, Workload

MAX_KEYS: Final = 50_000
"""Keys that a follower keeps; at more, it only remembers that everything may have changed."""


class Key(NamedTuple):
    """What an answer was made from; the module's table says what each kind stands for."""

    kind: Literal["address", "node_port", "pod", "node", "workload", "anybody"]
    name: str | Name | tuple[int, int] = ""


ANYBODY: Final = Key("anybody")


class Follower:
    """Collects the keys of changes for one reader."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: set[Key] = set()
        self._overflowed = False

    def add(self, keys: Collection[Key]) -> None:
        """Collect keys (any thread)."""
        with self._lock:
            if not self._overflowed:
                self._keys.update(keys)
            if len(self._keys) > MAX_KEYS:
                self._keys, self._overflowed = set(), True

    def take(self) -> AbstractSet[Key] | None:
        """Return the keys of the changes since the last call; None: everything may have changed."""
        # Most calls find nothing, and need no lock: a change that is being made belongs to the next call.
        if not self._keys and not self._overflowed:
            return frozenset()
        with self._lock:
            keys, self._keys = self._keys, set()
            overflowed, self._overflowed = self._overflowed, False
        return None if overflowed else keys


class Changes:
    """Hands the keys of each change to all followers. Writers hold the lock of the index."""

    def __init__(self) -> None:
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._touched: set[Key] = set()

    def follow(self) -> Follower:
        """Return a follower, which gets every change from now on for as long as somebody keeps it."""
        follower = Follower()
        self._followers.add(follower)
        return follower

    def touch(self, *keys: Key) -> None:
        """Note keys of a change that is being made; :meth:`publish` hands them out."""
        if len(self._touched) <= MAX_KEYS:
            self._touched.update(keys)

    def publish(self) -> None:
        """Hand out what was touched. The index has changed by now."""
        touched, self._touched = self._touched, set()
        if touched:
            for follower in tuple(self._followers):
                follower.add(touched)


def address_keys(ips: Iterable[str]) -> tuple[Key, ...]:
    """Return the keys of some addresses."""
    return tuple(Key("address", ip) for ip in ips)


def keys_of(made: Object | None) -> Iterable[Key]:
    """Return the keys of the answers that an object is part of.

    Pods are left to :class:`enrich.index.addresses.Addresses`."""
    if isinstance(made, Node):
        return Key("node", made.name), *address_keys(made.all_ips)
    if isinstance(made, Service):
        return *address_keys(made.addresses), *(Key("node_port", port) for port in made.node_ports)
    if isinstance(made, EndpointSlice):
        return address_keys(made.addresses)
    if isinstance(made, Workload):
        return (Key("workload", made.key),)
    return ()
