"""Adopts connections whose first packet the programs did not see, by what nf_conntrack knows of them.

THEORY OF OPERATION. ``bpf/adoption.h`` is the kernel's half. This module judges nothing. It writes entries to the table
of connections (:mod:`probe.kernel.adopted_connections`), which the programs judge by policy at the next packet.

1. A new endpoint: the entries of all connections that its pod has opened or answers are written once, after its policy
   is installed and its programs are attached.
2. A mid-flow packet that the programs dropped: its flow is looked up. If the connection was opened in the packet's own
   direction, policy has denied just that, and nothing is written. Otherwise both ends that are local pods get entries.
3. A node without connection tracking: the node cannot say who opened a connection. For a minute after the attach a TCP
   packet counts as an answer if the pod is older than the programs; policy must allow the direction that it answers.

The kernel bounds look-ups, for each sender and in total. What is not looked up stays denied; TCP asks again. If a pod
has used up its look-ups, by its own packets or because somebody outside sends it many, all its connections are read
instead. A pod that floods another one uses up its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog

from enrich.wire.mapped_address import is_ipv4
from probe.kernel.adopted_connections import EGRESS, INGRESS, AdoptedConnections, LocalPod, entry
from probe.kernel.budgets import spared_by_endpoint
from probe.kernel.layout import CONNECTION_KEY, Array, Config
from probe.kernel.maps import Maps
from probe.kernel.stored_connections import Payer
from probe.kernel.unknown_flows import UnknownFlows
from probe.node.conntrack import Conntrack, Ends, Tracked
from probe.node.netlink import NodeNetwork

log = structlog.get_logger("kubeweir.probe")

_TCP: Final = 6
_POLL_S: Final = 0.2
_CHECK_S: Final = 1.0
"""How often it is read which pods have used up their look-ups."""
_READ_ALL_S: Final = 10.0
"""How often the connections of these pods are read."""
RESULTS: Final = ("adopted", "own_direction", "unknown", "failed")
"""How a look-up can end."""


@dataclass(frozen=True, slots=True)
class _Sources:
    flows: UnknownFlows
    conntrack: Conntrack


class Adoption:
    """Looks connections up, and writes entries, for one node. :meth:`run` is the work of one thread."""

    def __init__(self, maps: Maps, network: NodeNetwork) -> None:
        self._maps, self._network = maps, network
        self._table = AdoptedConnections(maps)
        self._known = self._table.installed()
        self._new: set[int] = set()
        self._lock = threading.Lock()
        self._flows: UnknownFlows | None = None
        self._settled = threading.Event()
        self._settled.set()
        self._spared = spared_by_endpoint(maps)
        """How many flows of each endpoint were not looked up, when that was last read."""
        self._exhausted: set[int] = set()
        """Endpoints that have used up their look-ups since their connections were last read."""
        self._checked_at = self._read_all_at = -_READ_ALL_S
        self._failure = ""
        self.lookups: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        """How many look-ups ended how; among the failed ones, entries without a place when all of a pod's connections
        were read."""

    def follow(self, endpoints: Mapping[int, int]) -> None:
        """Take note of the endpoints in force, interface index to number. The connections of new ones are read."""
        with self._lock:
            new = {index for index, number in endpoints.items() if self._known.get(index) != number}
            self._known = dict(endpoints)
            self._new |= new
            if new:
                self._settled.clear()
            if new and self._flows is not None:
                self._flows.wake()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the connections of all new endpoints have been read. Return False if that takes longer."""
        return self._settled.wait(timeout_s)

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set."""
        with (
            contextlib.closing(UnknownFlows(self._maps)) as flows,
            contextlib.closing(Conntrack(self._network)) as conntrack,
        ):
            with self._lock:
                self._flows = flows
            while not stop.is_set():
                if self._settled.is_set():
                    flows.wait(_POLL_S)
                self._serve(_Sources(flows, conntrack))
            with self._lock:
                self._flows = None

    def _serve(self, sources: _Sources) -> None:
        with self._lock:
            new, self._new = self._new, set()
        try:
            self._adopt_all(sources.conntrack, new)
            self._look_up_waiting(sources)
            self._adopt_exhausted(sources.conntrack)
            self._failure = ""
        except OSError as error:
            self.lookups["failed"] += 1
            if str(error) != self._failure:
                self._failure = str(error)
                log.warning("nf_conntrack cannot be asked: connections that are older than their pod's programs stay "
                            "denied unless policy allows each packet", error=self._failure)  # fmt: skip
        with self._lock:
            if not self._new:
                self._settled.set()

    def _look_up_waiting(self, sources: _Sources) -> None:
        flows = sources.flows.read()
        for flow in flows[_fairly(flows)]:
            self.lookups[self._look_up(sources.conntrack, flow)] += 1

    def _adopt_exhausted(self, conntrack: Conntrack) -> None:
        """Read all connections of pods that have used up their look-ups, all such pods together."""
        now = time.monotonic()
        if now - self._checked_at < _CHECK_S:
            return
        self._checked_at = now
        spared = spared_by_endpoint(self._maps)
        self._exhausted |= {number for number, count in spared.items() if self._spared.get(number, 0) != count}
        self._spared = spared
        if self._exhausted and now - self._read_all_at >= _READ_ALL_S:
            self._read_all_at = now
            exhausted, self._exhausted = self._exhausted, set()
            with self._lock:
                indexes = {index for index, number in self._known.items() if number in exhausted}
            self._adopt_all(conntrack, indexes)

    def _look_up(self, conntrack: Conntrack, flow: Array) -> str:
        """Look one flow up, and return how that ended."""
        key, direction, protocol = flow["key"], int(flow["direction"]), int(flow["key"]["protocol"])
        sent = Ends(key["local"].tobytes(), int(key["local_port"]), key["remote"].tobytes(), int(key["remote_port"]))
        tracked = conntrack.find(protocol, sent)
        if tracked is None:
            is_answer = flow["just_attached"] and protocol == _TCP
            if not is_answer or conntrack.is_tracking(six=not is_ipv4(sent.source)):
                return "unknown"
            value = entry(INGRESS if direction == EGRESS else EGRESS, 0)
            # It is not known who opened the connection, so who sends its packets pays.
            payer = Payer(int(flow["payer"]), int(flow["account"]))
            return "adopted" if self._table.write(key.tobytes(), value, payer) else "failed"
        if direction == (EGRESS if tracked.original == sent else INGRESS):
            return "own_direction"
        result = "adopted"
        for found, value, payer in self._table.entries(tracked, self._table.pods_of(tracked)):
            is_needed = found == key.tobytes() or not self._table.has_entry(found)
            if is_needed and not self._table.write(found, value, payer):
                result = "failed"
        return result

    def _adopt_all(self, conntrack: Conntrack, indexes: Collection[int]) -> None:
        """Write entries for the connections of the pods at these interfaces; those that were answered come first."""
        pods = {address: pod for index in indexes if (pod := self._table.pod_at(index)) for address in pod.addresses}
        if not pods:
            return
        limit = max(1, self._maps.config(Config.POD_CONNECTIONS) // 2)
        written: Counter[int] = Counter()
        failed = self.lookups["failed"]
        unanswered: list[Tracked] = []
        for tracked in conntrack.of(pods):
            if tracked.answered and not tracked.over:
                self._adopt(tracked, pods, written, limit)
            elif not tracked.over and len(unanswered) < limit:
                unanswered.append(tracked)
        for tracked in unanswered:
            self._adopt(tracked, pods, written, limit)
        if without_place := self.lookups["failed"] - failed:
            log.warning("the table has no place for older connections: each is looked up at its next packet, and "
                        "denied while there is none", entries=without_place, interfaces=len(indexes))  # fmt: skip

    def _adopt(self, tracked: Tracked, pods: Mapping[bytes, LocalPod], written: Counter[int], limit: int) -> None:
        for key, value, payer in self._table.entries(tracked, pods):
            endpoint = int(np.frombuffer(key, CONNECTION_KEY)["endpoint"][0])
            if written[endpoint] < limit and not self._table.has_entry(key, seen_open=True):
                if self._table.write(key, value, payer):
                    written[endpoint] += 1
                else:
                    self.lookups["failed"] += 1


def _fairly(flows: Array) -> Array:
    """Return an order in which the first request of every account comes before the second of any."""
    seen: Counter[tuple[int, int]] = Counter()
    ranks = []
    for account in zip(flows["payer"].tolist(), flows["account"].tolist(), strict=True):
        ranks.append(seen[account])
        seen[account] += 1
    return np.argsort(np.array(ranks), kind="stable")
