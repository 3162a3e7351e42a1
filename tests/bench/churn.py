"""Measure what changes of the cluster cost the enricher: verdicts per CPU second with churn, beside a quiet cluster.

One process has the index, the enricher and the pending verdicts of a worker, without Kafka. Time is CPU time: after
each merged batch, as many pods are replaced (deleted and made anew, with the same address and another UID) as are due
by the CPU time that has passed. The CPU that the index takes for a change counts too, because a worker's watch shares
its core. All cases of a round run one after the other, and each is compared with the quiet case of its round.

With unsettled verdicts, one verdict in fifty is about an address among the pods' that nobody has. It waits for
``WEIR_ATTRIBUTION_WAIT``, and with it all later verdicts of its pod.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from enrich.index.cluster import NAMED_KINDS, Change, Cluster
from enrich.model import Node, Owner, Pod
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import MergedBatch, merge
from enrich.wire.batch import VERDICT, Batch, EndpointRef, Header, PolicyRef, Reason, Verdict
from streams.worker.inflight import InFlightTracker, TrackedInput
from streams.worker.pending import PendingVerdicts
from tests.bench.result import Figure, Part, expect, say
from tests.bench.scale import Scale

RATES: Final = (0, 10, 100, 1000)
"""Pod changes in a second."""
AIM: Final = 0.8
"""The part of the quiet throughput that should remain at 100 changes a second."""
_SECOND: Final = 1_000_000_000
_PODS_PER_NODE: Final = 200
_BATCH: Final = 1000
_MERGED: Final = 4
"""Batches of one merged batch, each of another node."""
_PEERS: Final = 300
"""Pods that the pods of a node talk to."""
_UNSETTLED: Final = 50
"""One verdict of this many is unsettled, in the cases that have unsettled ones."""
_WAIT_NS: Final = 2 * _SECOND
_RELEASE_EVERY_NS: Final = _SECOND // 50
_AGE_NS: Final = _SECOND // 2
"""How old a verdict is when it arrives."""


def measure(scale: Scale) -> Part:
    """Measure all rates in several rounds, without and with unsettled verdicts."""
    cases = [(rate, unsettled) for unsettled in (False, True) for rate in RATES]
    found: dict[tuple[int, bool], list[float]] = {case: [] for case in cases}
    counts = {"verdicts": 0, "records": 0, "changes": 0}
    for number in range(scale.churn_rounds):
        for rate, unsettled in cases:
            say(f"churn: round {number + 1} of {scale.churn_rounds}, {_case(rate, unsettled)}")
            worker = _Worker(scale.churn_pods, unsettled=unsettled)
            found[rate, unsettled].append(worker.run(rate, scale.churn_s))
            counts["verdicts"] += worker.taken
            counts["records"] += worker.records
            counts["changes"] += worker.changes
    expect(counts["records"], counts["verdicts"], "records")
    how = (
        f"An enricher and its pending verdicts in one process; {scale.churn_pods:,} pods, {_PODS_PER_NODE} on a node; "
        f"merged batches of {_MERGED} x {_BATCH:,} verdicts; {scale.churn_s:.1f} s of CPU time for each case and "
        "round. A change deletes a pod, or makes its successor with the same address. Ratios are to the quiet case of "
        "the same round."
    )
    return Part("Verdicts and changes of the cluster", how, _figures(found), counts)


def _case(rate: int, unsettled: bool) -> str:
    changes = f"{rate:,} pod changes a second" if rate else "quiet"
    return f"{changes}, 1 in {_UNSETTLED} unsettled" if unsettled else changes


def _figures(found: dict[tuple[int, bool], list[float]]) -> list[Figure]:
    figures = []
    for (rate, unsettled), samples in found.items():
        figures.append(Figure(_case(rate, unsettled), "verdicts per CPU second", tuple(samples)))
        quiet = found[0, False] if unsettled and not rate else found[0, unsettled]
        if rate or unsettled:
            ratios = tuple(sample / still for sample, still in zip(samples, quiet, strict=True))
            aim = AIM if rate == 100 else None
            figures.append(Figure(_case(rate, unsettled), "of quiet" if rate else "of all settled", ratios, aim))
    return figures


class _Worker:
    """The index and the enricher of a worker, by a clock that only runs while this process uses the CPU."""

    def __init__(self, pods: int, *, unsettled: bool) -> None:
        self.taken = self.records = self.changes = 0
        self._epoch_ns = time.time_ns() - time.process_time_ns()
        self._cluster = Cluster(tail_s=60.0, kinds=NAMED_KINDS, now_ns=self._now_ns)
        self._pods = [_pod(number, 0) for number in range(pods)]
        self._nodes = pods // _PODS_PER_NODE
        nodes = [Node(f"n{number}", f"n{number}", {}, (), "zone-a") for number in range(self._nodes)]
        self._cluster.replace_all({**{kind: [] for kind in NAMED_KINDS}, Pod: self._pods, Node: nodes})
        self._cluster.addresses.set_complete_since(0)
        self._enricher = Enricher(self._cluster, now_ns=self._now_ns)
        self._pending = PendingVerdicts(self._enricher, self._now_ns, _WAIT_NS, 1 << 30, self._now_ns)
        self._tracker = InFlightTracker(1 << 40, 1 << 50, lambda step: step(), _refused)
        self._batches = _Batches(pods, unsettled=unsettled)
        self._generations = [0] * pods
        self._next_change = self._next_release = 0

    def run(self, rate: int, seconds: float) -> float:
        """Enrich for that much CPU time, and return verdicts per CPU second. What waits at the end is enriched too."""
        for place in range(self._nodes // _MERGED):
            self._take(place)  # every cache is filled
        self._release(everything=True)
        self.taken = self.records = 0
        began, place = time.process_time(), 0
        changes = 0
        while (passed := time.process_time() - began) < seconds:
            while changes < rate * passed:
                self._change(changes)
                changes += 1
            self._take(place)
            place += 1
            if self._now_ns() >= self._next_release:
                self._next_release = self._now_ns() + _RELEASE_EVERY_NS
                self._release()
        self._release(everything=True)
        self.changes += changes
        return self.taken / (time.process_time() - began)

    def _now_ns(self) -> int:
        return self._epoch_ns + time.process_time_ns()

    def _change(self, number: int) -> None:
        """Delete a pod, or make the successor of the one that was deleted last."""
        place = (number // 2 * 7919) % len(self._pods)
        if number % 2:
            self._generations[place] += 1
            self._pods[place] = _pod(place, self._generations[place], self._now_ns())
        self._cluster.apply([Change("set" if number % 2 else "delete", self._pods[place])])

    def _take(self, place: int) -> None:
        batch = merge(*self._batches.at(place, self._now_ns() - _AGE_NS))
        self.taken += len(batch.verdicts)
        until_ns = self._pending.until_ns()
        found = self._enricher.lookup(batch)
        if found.unsettled is None and not len(self._pending):
            self.records += len(self._enricher.records(batch, found).values)
            return
        inputs = [self._tracker.open(0, 0, 0, 0, _acknowledged) for _ in batch.headers]
        ready = self._pending.split(inputs, batch, found, until_ns)
        if ready is not None:
            batch, found = batch.pick(ready), found.pick(ready)
        self._send(batch, found, until_ns)

    def _release(self, *, everything: bool = False) -> None:
        if everything:
            self._epoch_ns += _WAIT_NS
        for released in self._pending.release():
            self._send(released.batch, self._enricher.lookup(released.batch, is_final=True), self._pending.until_ns())
            for _ in self._pending.mark_sent(released):
                pass

    def _send(self, batch: MergedBatch, found: object, until_ns: int) -> None:
        self._enricher.mark_ambiguous(batch, found, until_ns)  # type: ignore[arg-type]  # a Lookup
        self.records += len(self._enricher.records(batch, found).values)  # type: ignore[arg-type]  # as above


def _pod(number: int, generation: int, started_ns: int = 1) -> Pod:
    labels = {"app": f"app-{number % 2000}", "pod-template-hash": "5d9f8c"}
    return Pod(
        f"team-{number % 300}", f"app-{number % 2000}-{number}-{generation}", f"uid-{number}-{generation}", labels,
        (_address(number),), f"n{number // _PODS_PER_NODE}", owner=Owner("ReplicaSet", f"app-{number % 2000}-5d9f8c"),
        started_ns=started_ns,
    )  # fmt: skip


def _address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


class _Batches:
    """Batches of every node, made once; only the clock in their headers is new each time."""

    def __init__(self, pods: int, *, unsettled: bool) -> None:
        chance = np.random.default_rng(1)
        self._nodes = [_node_batch(node, pods, chance, unsettled=unsettled) for node in range(pods // _PODS_PER_NODE)]
        self._first = 0

    def at(self, place: int, clock_ns: int) -> Iterator[Batch]:
        """Yield the batches of one merged batch."""
        for number in range(_MERGED):
            header, verdicts = self._nodes[(place * _MERGED + number) % len(self._nodes)]
            self._first += len(verdicts)
            yield Batch(msgspec.structs.replace(header, clock=clock_ns, first=self._first), verdicts)


def _node_batch(
    node: int, pods: int, chance: np.random.Generator, *, unsettled: bool
) -> tuple[Header, np.ndarray[tuple[int], np.dtype[np.void]]]:
    own = chance.integers(0, _PODS_PER_NODE, _BATCH)
    peers = chance.integers(0, pods, _PEERS)[chance.integers(0, _PEERS, _BATCH)]
    verdicts = np.zeros(_BATCH, VERDICT)
    verdicts["source"], verdicts["destination"] = _packed(own + node * _PODS_PER_NODE), _packed(peers)
    if unsettled:
        # Above all pods, in the last /24 that has some.
        verdicts["destination"][::_UNSETTLED] = _packed(np.array([(pods - 1) | 255]))
    verdicts["source_port"] = chance.integers(32_768, 61_000, _BATCH)
    verdicts["destination_port"], verdicts["protocol"], verdicts["count"] = 8080, 6, 1
    verdicts["endpoint"], verdicts["rule"] = own + 1, 1 + own % 5
    verdicts["verdict"], verdicts["reason"] = Verdict.ALLOW, Reason.POLICY
    verdicts["time_ns"] = np.arange(_BATCH) * 100_000
    refs = [_pod(number, 0) for number in range(node * _PODS_PER_NODE, (node + 1) * _PODS_PER_NODE)]
    header = Header(
        v=1, cluster="bench", node=f"n{node}", ring=f"{node:016x}", first=0, verdicts=_BATCH,
        verdict_bytes=VERDICT.itemsize, clock=0,
        endpoints={str(place): EndpointRef(pod.namespace, pod.name, pod.uid) for place, pod in enumerate(refs, 1)},
        rules={str(rule): [PolicyRef("NetworkPolicy", "shop", f"policy-{rule}", 0)] for rule in range(1, 6)},
    )  # fmt: skip
    return header, verdicts


def _packed(numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    addresses = np.zeros((len(numbers), 16), np.uint8)
    addresses[:, 10:12] = 0xFF
    addresses[:, 12] = 10
    for place in range(3):
        addresses[:, 13 + place] = numbers >> 8 * (2 - place) & 255
    return addresses


def _refused(tracked: TrackedInput, error: object, message: object) -> None:
    raise AssertionError(error)


def _acknowledged(tracked: TrackedInput) -> None:
    """Nothing is read here, so nothing is acknowledged."""
