"""The node's network as the probe last read it, and whether it may have changed since.

Reading everything takes longer than most changes of policy (at a hundred pods), so the network is read again only if a
link event arrived, if the caller has a reason, or if the last read is more than 30 s old.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import dataclass
from typing import Final

from probe.node.link_clock import LinkClock
from probe.node.netlink import Device, NodeNetwork, Veth

_REREAD_S: Final = 30.0
"""The network is read again after this time even without events, should one have been lost."""


@dataclass(frozen=True, slots=True)
class NetworkState:
    """The node's network at one moment."""

    read_at_ns: int = 0
    """When reading began, on the wall clock."""
    veths: tuple[Veth, ...] = ()
    addresses: frozenset[str] = frozenset()
    """The node's own."""
    devices: tuple[Device, ...] = ()


class NetworkView:
    """Reads the network for one thread; any thread may call :meth:`invalidate`."""

    def __init__(self, network: NodeNetwork, clock: LinkClock) -> None:
        self.network = network
        self.clock = clock
        self.state = NetworkState()
        self._changed = threading.Event()
        self._changed.set()
        self._read_at = 0.0
        self._first_veths: frozenset[int] | None = None
        self._first_addresses: dict[int, frozenset[str]] = {}

    def invalidate(self) -> None:
        """Have the network read again by the next :meth:`refresh`: links appeared or disappeared."""
        self._changed.set()

    def refresh(self, *, force: bool) -> bool:
        """Read the network if it may have changed, or if ``force``; return whether it was read. Raises OSError."""
        now = time.monotonic()
        if not self._changed.is_set() and not force and now - self._read_at < _REREAD_S:
            return False
        self._changed.clear()  # before reading: what changes meanwhile is read the next time
        network = self.network
        began_ns = time.time_ns()
        veths = self._with_first_addresses(network.veths())
        self.state = NetworkState(began_ns, veths, network.node_addresses(), tuple(network.devices()))
        self._read_at = now
        if self._first_veths is None:
            self._first_veths = frozenset(veth.index for veth in self.state.veths)
        return True

    def _with_first_addresses(self, veths: list[Veth]) -> tuple[Veth, ...]:
        """Return the veths with the addresses that were first seen at the other end of each."""
        last_ns = self.state.read_at_ns
        known = {
            index: addresses
            for index, addresses in self._first_addresses.items()
            # The index may be another interface's by now.
            if (removed := self.clock.disappeared(index)) is None or removed.by <= last_ns
        }
        self._first_addresses = {
            veth.index: first for veth in veths if (first := known.get(veth.index) or veth.addresses)
        }
        return tuple(
            dataclasses.replace(veth, first=self._first_addresses.get(veth.index, frozenset())) for veth in veths
        )

    def valid_until_ns(self) -> int:
        """Return until when the links surely were as ``state`` says, on the wall clock."""
        caught_up_ns = self.clock.caught_up_ns  # read first: an event after it sets `_changed`
        return self.state.read_at_ns if self._changed.is_set() else max(caught_up_ns, self.state.read_at_ns)

    def was_there_first(self, index: int) -> bool:
        """Return whether the first read found this veth: it is older than the probe's process."""
        return index in (self._first_veths or ())
