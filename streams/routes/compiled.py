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
from enrich.template import Template
from streams.routes import sampling
from streams.routes.match import Block, EndTest, Matcher, Network

_CACHED: Final = 200_000
T = TypeVar("T", bound=Hashable)
Column = Sequence[Hashable]


class Compiled:
    """Says of each record of a batch which routes take it. Not thread safe: its caches are its own."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._matchers = matchers
        blocks = [block for one in matchers for block in (*one.wanted, *one.excluded)]
        ends = [end for block in blocks for end in block.ends]
        self._ends = _Kinds[str](lambda text: _of_end(ends, orjson.loads(text)))
        self._templates = _Templates(blocks, self._ends)
        ranges = [given for block in blocks for given in block.ports]
        self._ports = _port_kinds(ranges) if ranges else None
        services = [block for block in blocks if block.service]
        self._dialled = _Kinds[str](lambda text: self._of_dialled(services, text)) if services or ranges else None
        networks = tuple(dict.fromkeys(network for end in ends for network in end.networks))
        self._networks = [_Networks(networks[first : first + 62]) for first in range(0, len(networks), 62)]
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
        columns: list[Column] = [self._templates.of(facts.templates), self._ends.of(facts.remotes)]
        if self._ports is not None or self._networks:
            both = [sampling.words(facts.rows[name]) for name in ("source", "destination")]
        if self._ports is not None:
            kinds = self._ports[facts.rows["destination_port"]]
            # Where no address is known there is no port.
            columns.append((kinds * (both[0] | both[1]).any(axis=1)).tolist())
        if self._dialled is not None and any(facts.dialled):
            columns.append(self._dialled.of(facts.dialled))
        columns += [networks.of(words) for networks in self._networks for words in both]
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
        for bit, limit in self._limits:
            chosen = np.flatnonzero(masks & np.uint64(bit))
            if len(chosen):
                allowed = np.array([facts.templates[index].allowed for index in chosen.tolist()])
                out = allowed & (sampling.hashes(facts.rows[chosen]) >= np.uint64(limit))
                masks[chosen[out]] &= ~np.uint64(bit)
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
    """As :class:`_Kinds`, by identity: to hash a template is to hash all its texts.

    Templates are many, and new ones come with each change in the cluster; what they are made of is little."""

    def __init__(self, blocks: Sequence[Block], ends: _Kinds[str]) -> None:
        self._ends = ends
        self._abouts = _Kinds[str](lambda text: _of_record(blocks, orjson.loads(text)))
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
        fresh = [one for name, one in dict(zip(names, templates, strict=True)).items() if name not in self._known]
        abouts = self._abouts.of([one.about for one in fresh])
        locals_ = self._ends.of([one.local for one in fresh])
        for template, about, local in zip(fresh, abouts, locals_, strict=True):
            kind = (about, local, template.plain)
            self._known[id(template)] = self._numbers.setdefault(kind, len(self._numbers))
        # As long as they live their ids are their own.
        self._kept += fresh
        return [self._known[name] for name in names]


def _of_record(blocks: Sequence[Block], flow: Any) -> Hashable:
    return (
        flow["connection"]["direction"],
        flow.get("aggregated", False),
        tuple(all(one.holds(flow) for one in block.about) for block in blocks),
    )


def _of_end(ends: Sequence[EndTest], end: Any) -> Hashable:
    return tuple(one.named(end) for one in ends)


class _Networks:
    """Which of some networks an address is in, a bit each, in a column of 62 at most."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._rules = [
            (np.int64(1 << bit), network.version == 4, *_bounds(network)) for bit, network in enumerate(networks)
        ]

    def of(self, words: np.ndarray[Any, np.dtype[np.uint64]]) -> list[int]:
        """The kind of each. No address is in no network."""
        kinds = np.zeros(len(words), np.int64)
        # IPv4 lies among the addresses of IPv6 here, and is in none of its networks.
        four = ((words & _MAPPED[0]) == _MAPPED[1]).all(axis=1)
        for bit, is_four, mask, value in self._rules:
            kinds |= (((words & mask) == value).all(axis=1) & (four == is_four)) * bit
        kinds[~words.any(axis=1)] = -1
        found: list[int] = kinds.tolist()
        return found


def _bounds(
    network: Network,
) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], np.ndarray[Any, np.dtype[np.uint64]]]:
    """Mask and value of the two words of an address, IPv4 as v4-mapped."""
    if network.version == 4:
        prefix, mask = b"\0" * 10 + b"\xff\xff", b"\xff" * 12
        value = prefix + network.network_address.packed
        return _two(mask + network.netmask.packed), _two(value)
    return _two(network.netmask.packed), _two(network.network_address.packed)


def _two(raw: bytes) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.frombuffer(raw, "<u8")


_MAPPED: Final = _bounds(ipaddress.IPv4Network("0.0.0.0/0"))


def _port_kinds(ranges: Sequence[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each port the number of the stretch that it is in, from 1: all ranges begin and end between stretches."""
    turns = np.zeros(65537, np.int64)
    for first, last in ranges:
        turns[first] = turns[last + 1] = 1
    return 1 + np.cumsum(turns[:65536])
