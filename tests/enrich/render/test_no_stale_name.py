"""No cache of the enricher outlives what it was made from: over random histories of changes and verdicts, an enricher
that keeps its caches says the same as one that has none."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.index.changes import MAX_KEYS
from enrich.index.cluster import KINDS, Change, Cluster
from enrich.model import EndpointSlice, Node, Owner, Pod, Service, Workload
from enrich.render import enricher, fragments, peer_lookup, rings
from enrich.render.enricher import Enricher
from enrich.render.eviction import victims
from enrich.render.fragments import EndRenderer
from enrich.render.merged_batch import MergedBatch, merge
from enrich.render.peer_lookup import PeerLookup
from enrich.wire.address_interval import AddressInterval
from enrich.wire.batch import INGRESS, EndpointRef, Verdict
from enrich.wire.flow import decode_flow
from tests.enrich.flows import CLOCK, make_batch

S = 1_000_000_000
IPS = ("10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1", "203.0.113.1")
UIDS = ("u0", "u1", "u2", "u3")
NODES = ("n0", "n1")
OWNER = Owner("ReplicaSet", "web-abc")
ENDPOINTS = {str(number): EndpointRef("shop", f"pod-{uid}", uid) for number, uid in enumerate(UIDS, 1)}

_EARLIER_S = 100
"""How long before now the clocks of the batches begin."""


class History:
    """A random history of changes and verdicts, with few names, so that they meet often."""

    def __init__(self, seed: int, now_ns: Callable[[], int]) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a history, not a secret
        self._now_ns = now_ns

    def steps(self, count: int) -> Iterator[tuple[str, Any]]:
        kinds = ("set", "set", "set", "delete", "relist", "interval", "no interval", "complete", "wait", "verdicts")
        for _ in range(count):
            step = self._random.choice(kinds)
            yield step, getattr(self, f"_{step.replace(' ', '_')}")()
            yield "verdicts", self._verdicts()

    def _set(self) -> list[Any]:
        makers = (self._pod, self._pod, self._pod, self._node, self._service, self._slice, self._workload)
        return [self._random.choice(makers)() for _ in range(self._random.randint(1, 2))]

    _delete = _set

    def _relist(self) -> list[Pod]:
        return [self._pod() for _ in range(self._random.randint(0, 3))]

    def _pod(self) -> Pod:
        pick = self._random.choice
        number, started = self._random.randrange(3), self._now_ns() + self._second() * S
        return Pod(
            "shop", f"pod-{number}", f"u{pick((number, number, 3))}", {"app": pick("xy")}, self._ips(),
            pick((*NODES, "")), self._chance(10), self._chance(10), owner=pick((None, OWNER, OWNER)),
            started_ns=started, acknowledged_ns=started - S,
        )  # fmt: skip

    def _node(self) -> Node:
        return Node(self._random.choice(NODES), "u", {}, self._ips(), self._random.choice("ab"))

    def _service(self) -> Service:
        return Service("shop", self._random.choice("st"), "u", self._ips())

    def _slice(self) -> EndpointSlice:
        return EndpointSlice("shop", self._random.choice("ef"), "u", self._random.choice("st"), self._ips())

    def _workload(self) -> Workload:
        return Workload("ReplicaSet", "shop", "web-abc", "r", Owner("Deployment", self._random.choice(("web", "api"))))

    def _interval(self) -> AddressInterval:
        pick = self._random.choice
        uid = pick(UIDS)
        first, start, end, last = sorted(self._now_ns() + self._second() * S for _ in range(4))
        is_open = self._chance(2)
        return AddressInterval(
            cluster="c-1", node=pick(NODES), ip=pick(IPS), uid=uid, namespace="shop", pod=f"pod-{uid}", first=first,
            start=start, end=None if is_open else end, last=None if is_open else last,
        )  # fmt: skip

    def _no_interval(self) -> tuple[str, str]:
        return self._random.choice(UIDS), self._random.choice(IPS)

    def _complete(self) -> int:
        return self._second()

    def _wait(self) -> int:
        return self._random.choice((1, 5, 35, 70))

    def _verdicts(self) -> list[tuple[str, list[dict[str, Any]]]]:
        return [
            (self._random.choice(NODES), [self._verdict() for _ in range(self._random.randint(1, 6))])
            for _ in range(self._random.randint(1, 2))
        ]

    def _verdict(self) -> dict[str, Any]:
        pick = self._random.choice
        return {
            "time_ns": (self._second() + _EARLIER_S) * S, "source": pick(IPS), "destination": pick(IPS),
            "dialled": pick(("", *IPS)), "dialled_port": 80, "endpoint": self._random.randrange(5),
            "verdict": pick((Verdict.ALLOW, Verdict.DENY | INGRESS)),
        }  # fmt: skip

    def _ips(self) -> tuple[str, ...]:
        return tuple(self._random.sample(IPS, self._random.randint(0, 2)))

    def _second(self) -> int:
        """A time relative to now."""
        return self._random.choice((-60, -40, -32, -29, -20, -5, -2, -1, 0, 0, 1, 5))

    def _chance(self, of: int) -> bool:
        return self._random.randrange(of) == 0


class Site:
    """An index with a clock, and an enricher that is never emptied."""

    def __init__(self) -> None:
        self.now = CLOCK
        self.cluster = Cluster(tail_s=30.0, now_ns=lambda: self.now)
        self.cluster.replace_all({kind: [] for kind in KINDS})
        self.enricher = self.fresh()

    def fresh(self) -> Enricher:
        return Enricher(self.cluster, now_ns=lambda: self.now)

    def take(self, step: str, given: Any) -> None:
        if step in ("set", "delete"):
            self.cluster.apply([Change(step, one) for one in given], self.now - S)  # type: ignore[arg-type]  # as above
        elif step == "relist":
            self.cluster.replace(Pod, given, self.now - S)
        elif step == "interval":
            self.cluster.addresses.add_interval(given)
        elif step == "no interval":
            self.cluster.addresses.remove_interval(*given)
        elif step == "complete":
            self.cluster.addresses.set_complete_since(self.now + given * S)
        elif step == "wait":
            self.now += given * S
        else:
            self.compare(self.merged(given))

    def merged(self, batches: list[tuple[str, list[dict[str, Any]]]]) -> MergedBatch:
        clock = self.now - _EARLIER_S * S
        made = [
            make_batch(*verdicts, node=node, ring=node, first=100 * number, clock=clock, endpoints=ENDPOINTS)
            for number, (node, verdicts) in enumerate(batches)
        ]
        return merge(*made)

    def compare(self, batch: MergedBatch) -> None:
        fresh = self.fresh()
        found, expected = self.enricher.lookup(batch), fresh.lookup(batch)
        unsettled = [[] if one.unsettled is None else one.unsettled.tolist() for one in (found, expected)]
        assert unsettled[0] == unsettled[1]
        records = self.enricher.records(batch, found)
        assert records.values == fresh.records(batch, expected).values
        assert records.columns is not None
        for place, value in enumerate(records.values):
            assert records.columns.flow(place) == decode_flow(value)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, (1 << 32) - 1))
def test_an_enricher_that_keeps_its_caches_says_the_same_as_one_without(seed: int) -> None:
    site = Site()
    for step, given_step in History(seed, lambda: site.now).steps(80):
        site.take(step, given_step)


POD = Pod("shop", "web", "u0", {"app": "x"}, ("10.0.0.1",), "n0", owner=OWNER, started_ns=CLOCK - 30 * S)
NOW = {"time_ns": _EARLIER_S * S}
BATCH = [("n0", [{"endpoint": 1, "destination": "10.0.0.1"} | NOW, {"endpoint": 2, "destination": "10.0.0.2"} | NOW])]


@pytest.mark.parametrize(
    ("changed", "lookups"),
    [
        (Pod("shop", "other", "u9", {}, ("10.0.0.9",), "n1"), 0),
        (Service("shop", "s", "s", ("10.96.0.7",)), 0),
        (Node("n1", "n1", {}, ("192.0.2.9",)), 0),
        (Workload("ReplicaSet", "bank", "x", "r"), 0),
        (Pod("shop", "web", "u0", {"app": "y"}, ("10.0.0.1",), "n0", owner=OWNER, started_ns=CLOCK - 30 * S), 1),
        (Node("n0", "n0", {}, ("10.0.0.2",), "zone"), 2),
        (Workload("ReplicaSet", "shop", "web-abc", "r", Owner("Deployment", "web")), 1),
    ],
)
def test_a_change_costs_the_look_up_of_what_it_touches_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, changed: Any, lookups: int
) -> None:
    site = Site()
    site.cluster.apply([Change("set", POD)])
    site.compare(site.merged(BATCH))
    answered: list[bytes] = []
    answer = PeerLookup._answer

    def counted(self: PeerLookup, view: tuple[str, bool], raw: bytes, at_ns: int) -> None:
        answered.append(raw)
        answer(self, view, raw, at_ns)

    site.cluster.apply([Change("set", changed)])
    monkeypatch.setattr(PeerLookup, "_answer", counted)
    site.enricher.lookup(site.merged(BATCH))
    assert len(answered) == lookups


def test_more_changes_than_are_kept_are_not_missed() -> None:
    site = Site()
    site.cluster.apply([Change("set", POD)])
    site.compare(site.merged(BATCH))
    site.cluster.apply([Change("delete", POD)])
    many = (
        Service("shop", f"s{number}", "", (f"10.{number >> 8}.{number & 255}.7",)) for number in range(MAX_KEYS + 1)
    )
    site.cluster.replace(Service, many)
    site.now += 10 * S
    site.compare(site.merged(BATCH))


@contextmanager
def small_caches() -> Iterator[None]:
    """Bound every cache so tightly that each step of a history evicts from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer_lookup, "MAX_ANSWERS", 5)
        patch.setattr(peer_lookup, "MAX_PEER_BYTES", 3_000)
        patch.setattr(rings, "MAX_TEMPLATE_BYTES", 12_000)
        patch.setattr(fragments, "MAX_END_BYTES", 3_000)
        patch.setattr(enricher, "MAX_TEXTS", 3)
        yield


@settings(deadline=None, max_examples=30)
@given(st.integers(0, (1 << 32) - 1))
def test_an_enricher_that_evicts_all_the_time_says_the_same_as_one_without_caches(seed: int) -> None:
    site = Site()
    with small_caches():
        for step, given_step in History(seed, lambda: site.now).steps(60):
            site.take(step, given_step)


class Town:
    """A site of many pods, in batches of ten verdicts: each pod of a batch talks to the next pod."""

    def __init__(self, pods: int) -> None:
        self.site, self.pods = Site(), pods
        self.site.cluster.replace(Pod, [self.pod(number) for number in range(pods)])
        self.site.now += 60 * S

    def pod(self, number: int, label: str = "x") -> Pod:
        return Pod(
            "shop", f"web-{number}", f"u{number}", {"app": label}, (self.address(number),), "n0", owner=OWNER,
            started_ns=CLOCK - 30 * S,
        )  # fmt: skip

    def address(self, number: int) -> str:
        return f"10.1.{number % self.pods >> 8}.{number & 255}"

    def batch(self, place: int) -> MergedBatch:
        numbers = [(place * 10 + number) % self.pods for number in range(10)]
        verdicts = [
            {"endpoint": at, "destination": self.address(number + 1), "time_ns": _EARLIER_S * S}
            for at, number in enumerate(numbers, 1)
        ]
        endpoints = {str(at): EndpointRef("shop", f"web-{n}", f"u{n}") for at, n in enumerate(numbers, 1)}
        clock = self.site.now - _EARLIER_S * S
        return merge(make_batch(*verdicts, node=f"n{place}", ring=f"r{place}", clock=clock, endpoints=endpoints))

    def round(self) -> None:
        for place in range(self.pods // 10):
            batch = self.batch(place)
            self.site.enricher.records(batch)


LIMITS: dict[str, tuple[ModuleType, Callable[[Enricher], int]]] = {
    "MAX_ANSWERS": (peer_lookup, lambda made: len(made._peers._answers)),
    "MAX_PEER_BYTES": (peer_lookup, lambda made: made._peers._peers.bytes),
    "MAX_TEMPLATE_BYTES": (rings, lambda made: made._rings.bytes),
    "MAX_END_BYTES": (fragments, lambda made: made._ends.bytes),
    "MAX_TEXTS": (enricher, lambda made: len(made._texts)),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_cluster_a_tenth_too_large_for_a_cache_is_still_found_in_it(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    town = Town(400)
    town.round()
    made = town.site.enricher
    module, size = LIMITS[limit]
    most = size(made) * 9 // 10
    monkeypatch.setattr(module, limit, most)
    for _ in range(3):
        town.round()
    answered, rendered = calls_of(monkeypatch, PeerLookup, "_answer"), calls_of(monkeypatch, EndRenderer, "local")
    for _ in range(5):
        town.round()
    assert len(answered) < 5 * 400 / 2
    assert len(rendered) < 5 * 400 / 2
    town.site.compare(town.batch(0))
    made.lookup(town.batch(0))
    assert size(made) <= most


def calls_of(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    method = getattr(kind, name)

    def counting(self: Any, *given: Any) -> Any:
        calls.append(given)
        return method(self, *given)

    monkeypatch.setattr(kind, name, counting)
    return calls


def test_pods_that_change_for_ever_fill_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    town = Town(50)
    town.round()
    monkeypatch.setattr(peer_lookup, "MAX_PEER_BYTES", 100_000)
    monkeypatch.setattr(rings, "MAX_TEMPLATE_BYTES", 200_000)
    answered = calls_of(monkeypatch, PeerLookup, "_answer")
    made = town.site.enricher
    for turn in range(400):
        town.site.cluster.apply([Change("set", town.pod(turn % 50, f"y{turn}"))])
        town.round()
    assert made._peers._peers.bytes <= peer_lookup.MAX_PEER_BYTES + 10_000
    assert made._rings.bytes <= rings.MAX_TEMPLATE_BYTES + 10_000
    assert len(made._rings.templates) < 400
    assert len(answered) <= 400, "only what changed is looked up again"
    town.site.compare(town.batch(0))


def test_what_was_not_used_since_the_last_eviction_is_evicted_first() -> None:
    used = np.array([True, False, True, False, True, True])
    assert victims(used, 1).tolist() == [3]
    assert victims(used, 2).tolist() == [1, 3]
    assert victims(used, 4).tolist() == [1, 3, 2, 5]
    assert sorted(victims(used, 9).tolist()) == [0, 1, 2, 3, 4, 5]
    assert victims(np.ones(8, bool), 4).tolist() == [1, 3, 5, 7], "spread, because the oldest are needed next"
