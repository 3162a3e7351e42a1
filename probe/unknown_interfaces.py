"""Closes interfaces of pods of which nothing is known yet, as soon as the kernel announces them.

Theory of operation. The API server tells a pod's address one to three seconds after its interface was made. Until then
the interface is *unknown*: by ``WEIR_UNKNOWN=closed`` it gets the programs, and no endpoint, so that only the own node
can talk with it (``bpf/unready.h``, reason ``not_ready``). An example, with the times measured from the announcement:

1. 0 ms: the CNI plugin makes veth 9 and its other end in the pod's namespace. The kernel sends RTM_NEWLINK.
2. 1 to 2 ms: the thread that reads link events attaches both programs to veth 9. It does not wait for a pass, nor for
   the reconciling thread's netlink requests. The plugin has not started the pod's first process yet.
3. 2 s: the API server has published the address. A pass binds veth 9, and the pod's policy applies.

What is closed: every veth whose other end is in another network namespace, and every veth whose name is known as a
pod's (``WEIR_POD_INTERFACES``). At first there are no addresses inside, so nothing else distinguishes a pod's interface
from a neighbour's (Docker, systemd-nspawn). It is opened again, and named in the log, when it surely is not a pod's:

- A route of the node leads over a gateway behind it: it is an uplink (a node that is a container itself, as in kind).
- Every address that was first seen inside, and every one that is now, is outside the ranges of the node's pods; all
  pods of this node are within the ranges, and have their interfaces. As long as a pod of the node waits for its
  interface, this might be it, with any address that it has given itself.

A restart of the probe changes neither: an interface that has pods' programs keeps them, and one that the last probe has
left alone because of its addresses (``probe.node.left_interfaces``) is left alone until the first review, which may be
long if the API server is away. It is surely the same interface, because it still has the exit's programs.

Never closed: a name that ``WEIR_POD_INTERFACES`` excludes. What remains possible: between the announcement and the
attachment packets pass. Then the interface is down, or the pod has no process yet, unless the probe is held up.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from probe.kernel.attach import Attachments
from probe.node.binding import Binding
from probe.node.left_interfaces import LeftInterfaces
from probe.node.links import Link, has_gateway, links_in, read_link, read_links
from probe.node.netlink import NodeNetwork, Veth

log = structlog.get_logger("kubeweir.probe")

_PATIENCE_S: Final = 30.0
"""How long a pod may take from its interface to its address before the log says that it is closed."""
_WAITING: Final = "not_ready: nothing is known of its pod yet"


@dataclass(frozen=True, slots=True)
class Rules:
    """Which interfaces are closed before anything is known of them."""

    closed: bool = False
    """Whether any are (``WEIR_UNKNOWN``)."""
    names: tuple[str, ...] = ()
    """Patterns of pods' interfaces; with ! in front, of interfaces that are never a pod's."""
    cidrs: tuple[str, ...] = ()
    """The ranges of pods' addresses; empty: those of the Node object. ValueError if one is not a range."""

    def __post_init__(self) -> None:
        for cidr in self.cidrs:
            ipaddress.ip_network(cidr)

    def is_pods(self, name: str) -> bool:
        """Return whether this is the name of a pod's interface."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names if not pattern.startswith("!"))

    def is_excluded(self, name: str) -> bool:
        """Return whether an interface with this name is never a pod's. A pattern of pods' interfaces goes first."""
        return not self.is_pods(name) and any(
            fnmatch.fnmatchcase(name, pattern[1:]) for pattern in self.names if pattern.startswith("!")
        )


class UnknownInterfaces:
    """The interfaces that are closed before anything is known of them.

    The link thread calls :meth:`observe`, the reconciling thread :meth:`review`.
    """

    def __init__(
        self, network: NodeNetwork, attachments: Attachments, bound: Iterable[int], left: Path, rules: Rules
    ) -> None:
        """``bound`` are the interfaces that the last probe bound; the file ``left`` has those that it left alone."""
        self._network, self._attachments, self._rules = network, attachments, rules
        self._lock = threading.Lock()
        self._closed: dict[int, float] = {}
        """When each interface was closed, on the monotonic clock."""
        self._left: dict[int, str] = {}
        """Why each interface is left alone. It is named in the log once."""
        self._bound = frozenset(bound)
        self._file = LeftInterfaces(left)
        self._left_before: Mapping[int, str] = self._file.names
        """What the last probe left alone because of its addresses: names by index. It counts until the first review."""
        self.slowest_s = 0.0
        """The longest time from the reading of an announcement to the attachment."""

    @property
    def closed(self) -> frozenset[int]:
        """The interfaces that are closed, and of which nothing is known yet."""
        with self._lock:
            return frozenset(self._closed)

    def reasons(self) -> dict[int, str]:
        """Return why each of them is closed."""
        return dict.fromkeys(self.closed, _WAITING)

    def lasting(self) -> frozenset[int]:
        """Return those that have been closed for longer than a pod takes to get its address."""
        limit = time.monotonic() - _PATIENCE_S
        with self._lock:
            return frozenset(index for index, at in self._closed.items() if at < limit)

    def observe(self, message: bytes | None) -> None:
        """Close what is new, from one read of the netlink socket; None: everything that is there.

        A failure is logged. The next pass closes what it finds open.
        """
        if not self._rules.closed:
            return
        try:
            self._observe(message)
        except OSError as error:
            log.error("a new interface was not closed: the next pass tries again", error=str(error))

    def _observe(self, message: bytes | None) -> None:
        if message is None:
            for link in read_links():
                self._examine(link, time.monotonic(), new=False)
            return
        read_at = time.monotonic()
        for link in links_in(message):
            if link.gone:
                with self._lock:
                    self._closed.pop(link.index, None)
                    self._left.pop(link.index, None)
                    self._bound -= {link.index}
            # The other end of a pair that was moved elsewhere does not say so itself: the end that is gone here does.
            other = read_link(link.peer) if link.gone and link.kind == "veth" and link.peer else link
            if other is not None and not other.gone:
                self._examine(other, read_at, new=True)

    def review(self, binding: Binding, veths: Iterable[Veth], ranges: Collection[str], *, complete: bool) -> None:
        """Leave what surely is not a pod's, and close what was missed. Raises OSError.

        ``ranges`` are those of the node's pods. ``complete`` says whether all pods of this node are known.
        """
        if not self._rules.closed:
            return
        with self._lock:
            self._bound = frozenset(binding.bound)
            self._closed = {index: at for index, at in self._closed.items() if index not in self._bound}
        known = {veth.index: veth for veth in veths}
        pods = {address for pod in binding.bound.values() for address in pod.ips}
        trusted = complete and not binding.unattached and _all_within(pods, self._rules.cidrs or ranges)
        outside: dict[int, str] = {}
        for veth in known.values():
            if veth.index in self._bound or veth.index in binding.closed:
                continue
            if trusted and self._is_outside(veth, self._rules.cidrs or ranges):
                outside[veth.index] = veth.name
            reason = self._no_pods(veth, outside=veth.index in outside)
            if reason is not None:
                self._leave(veth.index, veth.name, reason)
            elif veth.index not in self._closed:
                self._close(veth.index, veth.name, time.monotonic())
            elif veth.index in self._attachments.obstacles:
                self._attachments.attach(veth.index)
            else:
                # The CNI plugin may have changed the link-layer address since.
                self._attachments.learn(veth.index)
        self._left_before = {}
        self._file.save(outside)

    def _is_outside(self, veth: Veth, ranges: Collection[str]) -> bool:
        """Return whether the addresses of an interface, and not its name, say that it is not a pod's."""
        addresses = veth.first | veth.addresses
        return bool(addresses) and not self._rules.is_pods(veth.name) and not _any_within(addresses, ranges)

    def _no_pods(self, veth: Veth, *, outside: bool) -> str | None:
        """Return why an interface surely is not a pod's, None if it may be one's."""
        if self._rules.is_excluded(veth.name):
            return "WEIR_POD_INTERFACES excludes its name"
        if self._network.run(has_gateway, veth.index):
            return "a route of the node leads over a gateway behind it"
        if outside:
            addresses = ", ".join(sorted(veth.first | veth.addresses))
            return f"its addresses ({addresses}) are outside the ranges of this node's pods"
        return None

    def _examine(self, link: Link, read_at: float, *, new: bool) -> None:
        if link.kind != "veth" or link.index in self._closed or link.index in self._left:
            return
        if link.index in self._bound and self._attachments.carries(link.index):
            return
        if link.namespace is None and not self._rules.is_pods(link.name):
            # While a pair is being made, its first end does not say where the other one is.
            again = read_link(link.index)
            if again is None or again.namespace is None:
                return
            link = again
        if self._rules.is_excluded(link.name):
            self._leave(link.index, link.name, "WEIR_POD_INTERFACES excludes its name")
        elif not new and has_gateway(link.index):
            self._leave(link.index, link.name, "a route of the node leads over a gateway behind it")
        elif not new and self._was_left(link):
            self._leave(link.index, link.name, "the last probe has found its addresses outside the ranges of pods")
        else:
            self._close(link.index, link.name, read_at, new=new)

    def _was_left(self, link: Link) -> bool:
        """Return whether the last probe has left this very interface alone, and not another one with its index."""
        was_left = self._left_before.get(link.index) == link.name and not self._rules.is_pods(link.name)
        return was_left and self._attachments.carries_exit(link.index)

    def _close(self, index: int, name: str, read_at: float, *, new: bool = False) -> None:
        if new:
            attached = self._attachments.attach_new(index)
        else:
            attached = self._attachments.is_attached(index) or self._attachments.attach(index)
        if not attached:
            return
        now = time.monotonic()
        with self._lock:
            self._closed.setdefault(index, now)
            self._left.pop(index, None)
        self.slowest_s = max(self.slowest_s, now - read_at)
        log.debug("interface is closed until its pod is known", interface=name, after_ms=1e3 * (now - read_at))

    def _leave(self, index: int, name: str, reason: str) -> None:
        with self._lock:
            was_closed = self._closed.pop(index, None) is not None
            if index in self._left:
                return
            self._left[index] = reason
        if was_closed:
            self._attachments.detach(index)
        log.info("interface is left alone: it is not a pod's", interface=name, reason=reason)


def _all_within(addresses: Iterable[str], ranges: Collection[str]) -> bool:
    return bool(ranges) and all(_any_within([address], ranges) for address in addresses)


def _any_within(addresses: Iterable[str], ranges: Collection[str]) -> bool:
    networks = [ipaddress.ip_network(cidr) for cidr in ranges]
    return any(ipaddress.ip_address(address) in network for address in addresses for network in networks)
