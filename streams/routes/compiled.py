"""Routes over a batch of records, without a look into each.

Rows that no condition of any route can tell apart are of one kind. A row's kind is a few small numbers: what the
conditions say of its template, of its other end, of its Service, which of the ranges its port is in, which of the
networks its addresses. Each is looked up once for what recurs, and :mod:`streams.routes.match` decides once for each
kind, by the record of its first row. So nothing here decides anything itself, and what is decided is exact.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
import orjson

from enrich.enricher import Facts, Records
from enrich.flow import address_text
from enrich.template import Template
from streams.routes import sampling
from streams.routes.match import Block, EndTest, Matcher, Network

_CACHED: Final = 200_000
_NOWHERE: Final = bytes(16)
T = TypeVar("T", bound=Hashable)
Column = Sequence[Hashable]


class Compiled:
    """Says of each record of a batch which routes take it. Not thread safe: its caches are its own."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._matchers = matchers
        blocks = [block for one in matchers for block in (*one.wanted, *one.excluded)]
        ends = [end for block in blocks for end in block.ends]
        self._templates = _Templates(blocks, ends)
        self._remotes = _Kinds[str](lambda text: _of_end(ends, orjson.loads(text)))
        ranges = [given for block in blocks for given in block.ports]
        self._ports = _port_kinds(ranges) if ranges else None
        services = [block for block in blocks if block.service]
        self._dialled = _Kinds[str](lambda text: self._of_dialled(services, text)) if services or ranges else None
        networks = tuple(dict.fromkeys(network for end in ends for network in end.networks))
        self._addresses = _Kinds[bytes](lambda raw: _of_address(networks, raw)) if networks else None
        self._limits = [(1 << bit, sampling.limit(one.sample)) for bit, one in enumerate(matchers) if one.sample < 1]
        self._decided: dict[tuple[Hashable, ...], int] = {}

    def masks(self, records: Records) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """For each record the routes that take it, a bit each."""
        facts = records.facts
        if facts is None or not self._matchers:
            return np.zeros(len(records.values), np.uint64)
        kinds = list(zip(*self._columns(facts), strict=True))
        found = list(map(self._decided.get, kinds))
        if None in found:
            self._decide(kinds, records)
            found = [self._decided[kind] for kind in kinds]
        masks = np.array(found, np.uint64)
        return self._sampled(masks, facts) if self._limits else masks

    def _columns(self, facts: Facts) -> list[Column]:
        columns: list[Column] = [self._templates.of(facts.templates), self._remotes.of(facts.remotes)]
        if self._ports is not None:
            kinds = self._ports[facts.rows["destination_port"]]
            # Where no address is known there is no port.
            known = sampling.words(facts.rows["source"]) | sampling.words(facts.rows["destination"])
            columns.append((kinds * known.any(axis=1)).tolist())
        if self._dialled is not None:
            columns.append(self._dialled.of(facts.dialled))
        if self._addresses is not None:
            for name in ("source", "destination"):
                raw = np.ascontiguousarray(facts.rows[name]).view("V16").ravel().tolist()
                columns.append(self._addresses.of(raw))
        return columns

    def _decide(self, kinds: list[tuple[Hashable, ...]], records: Records) -> None:
        if len(self._decided) > _CACHED:
            self._decided.clear()
        for kind, value in zip(kinds, records.values, strict=True):
            if kind not in self._decided:
                flow = orjson.loads(value)
                self._decided[kind] = sum(one.fits(flow) << bit for bit, one in enumerate(self._matchers))

    def _sampled(
        self, masks: np.ndarray[Any, np.dtype[np.uint64]], facts: Facts
    ) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Allowed connections that are in no sample taken out."""
        allowed = np.array([template.allowed for template in facts.templates])
        hashes = sampling.hashes(facts.rows)
        for bit, limit in self._limits:
            masks[allowed & (hashes >= np.uint64(limit))] &= ~np.uint64(bit)
        return masks

    def _of_dialled(self, services: Sequence[Block], text: str) -> Hashable:
        if not text:
            return None
        flow = orjson.loads(f"{{{text[1:]}}}")
        port = flow["dialled"]["port"]
        return (
            0 if self._ports is None else int(self._ports[port]),
            tuple(block.service is not None and block.service.holds(flow) for block in services),
        )


class _Kinds(Generic[T]):
    """A value to the number of its kind, looked up once."""

    def __init__(self, kind_of: Callable[[T], Hashable]) -> None:
        self._kind_of = kind_of
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[T, int] = {}

    def of(self, values: Sequence[T]) -> list[int]:
        """The kind of each."""
        found = list(map(self._known.get, values))
        if None not in found:
            return found  # type: ignore[return-value]  # None was ruled out
        if len(self._known) > _CACHED:
            self._known.clear()
        for value in set(values):
            if value not in self._known:
                self._known[value] = self._numbers.setdefault(self._kind_of(value), len(self._numbers))
        return [self._known[value] for value in values]


class _Templates:
    """As :class:`_Kinds`, by identity: to hash a template is to hash all its texts."""

    def __init__(self, blocks: Sequence[Block], ends: Sequence[EndTest]) -> None:
        self._blocks, self._ends = blocks, ends
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[int, int] = {}
        self._kept: list[Template] = []

    def of(self, templates: Sequence[Template]) -> list[int]:
        """The kind of each."""
        names = list(map(id, templates))
        found = list(map(self._known.get, names))
        if None not in found:
            return found  # type: ignore[return-value]  # None was ruled out
        if len(self._kept) > _CACHED:
            self._known.clear()
            self._kept.clear()
        for name, template in dict(zip(names, templates, strict=True)).items():
            if name not in self._known:
                self._known[name] = self._numbers.setdefault(self._kind(template), len(self._numbers))
                # As long as it lives its id is its own.
                self._kept.append(template)
        return [self._known[name] for name in names]

    def _kind(self, template: Template) -> Hashable:
        flow = orjson.loads(template.skeleton())
        connection = flow["connection"]
        inward = connection["direction"] == "ingress"
        return (
            inward,
            template.plain,
            flow.get("aggregated", False),
            tuple(all(one.holds(flow) for one in block.about) for block in self._blocks),
            _of_end(self._ends, flow["dest" if inward else "src"]),
        )


def _of_end(ends: Sequence[EndTest], end: Any) -> Hashable:
    return tuple(one.named(end) for one in ends)


def _of_address(networks: Sequence[Network], raw: bytes) -> Hashable:
    if raw == _NOWHERE:
        return None
    address = ipaddress.ip_address(address_text(raw))
    return tuple(address in network for network in networks)


def _port_kinds(ranges: Sequence[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each port the number of the stretch that it is in, from 1: all ranges begin and end between stretches."""
    turns = np.zeros(65537, np.int64)
    for first, last in ranges:
        turns[first] = turns[last + 1] = 1
    return 1 + np.cumsum(turns[:65536])
