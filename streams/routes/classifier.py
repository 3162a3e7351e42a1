"""Routes over many records, without a look into each.

Rows that no condition of any route can tell apart are of one kind. A row's kind is a few small numbers: what the
conditions say of its template, of its other end, of its Service, which of the ranges its port is in, which of the
networks its addresses. Each is looked up once for what recurs, and :mod:`streams.matching.matcher` decides once for
each
kind, by the record of its first row. So nothing here decides anything itself, and what is decided is exact. A row costs
a few look-ups in arrays, and no object of Python's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
import orjson

from enrich.render.enricher import RecordColumns, Records
from enrich.render.interning import Int64Array, InternMap
from enrich.render.template import Template
from streams.matching import sampling
from streams.matching.matcher import Block, EndTest, Matcher, Network

_CACHED: Final = 200_000
_CELLS: Final = 1 << 22
_NETWORKS: Final = 8
"""In a column: few enough that most combinations are of low numbers."""
T = TypeVar("T", bound=Hashable)
Masks = np.ndarray[Any, np.dtype[np.uint64]]


class Compiled:
    """Says of each record which routes take it. Not thread safe: its caches are its own."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._matchers = matchers
        blocks = [block for one in matchers for block in (*one.wanted, *one.excluded)]
        ends = [end for block in blocks for end in block.ends]
        self._end_kinds = _Kinds[str](lambda text: _of_end(ends, orjson.loads(text)))
        self._template_kinds = _TemplateKinds(matchers, blocks, self._end_kinds)
        self._templates = InternMap[Template](self._template_kinds)
        self._remotes = InternMap[str](self._end_kinds.of)
        ranges = [given for block in blocks for given in block.ports]
        self._ports = _port_kinds(ranges) if ranges else None
        services = [block for block in blocks if block.service]
        self._dialled = _Kinds[str](lambda text: self._of_dialled(services, text)) if services or ranges else None
        networks = tuple(dict.fromkeys(network for end in ends for network in end.networks))
        self._networks = [
            _Networks(networks[first : first + _NETWORKS]) for first in range(0, len(networks), _NETWORKS)
        ]
        self._limits = [(1 << bit, sampling.limit(one.sample)) for bit, one in enumerate(matchers) if one.sample < 1]
        self._forget()

    def _forget(self) -> None:
        self._pairs: list[_Pairs] = []
        self._decided = np.empty(0, np.uint64)

    def masks(self, records: Records) -> Masks:
        """For each record the routes that take it, a bit each."""
        columns = records.columns
        if columns is None or not self._matchers:
            return np.zeros(len(records.values), np.uint64)
        if len(self._decided) > _CACHED or any(len(one) > _CACHED for one in self._pairs):
            self._forget()
        templates = self._templates.of(columns.templates, columns.template)
        possible = self._template_kinds.possible[templates]
        if not possible.any():
            return possible
        kinds = self._kinds(templates, columns)
        if int(kinds.max()) >= len(self._decided):
            self._decide(kinds, records, possible)
        masks = self._decided[kinds]
        return self._sampled(masks, columns) if self._limits else masks

    def _kinds(self, kinds: Int64Array, columns: RecordColumns) -> Int64Array:
        """The kind of each row: its columns' numbers taken together, two at a time; the templates' come first."""
        for place, column in enumerate(self._columns(columns)):
            if place == len(self._pairs):
                self._pairs.append(_Pairs())
            kinds = self._pairs[place].of(kinds, column)
        return kinds

    def _columns(self, columns: RecordColumns) -> Iterator[Int64Array]:
        """Always the same ones, in one order."""
        yield self._remotes.of(columns.peers, columns.peer)
        if self._ports is not None or self._networks:
            both = [_Words(columns.verdicts[name]) for name in ("source", "destination")]
        if self._ports is not None:
            # Where no address is known there is no port.
            yield self._ports[columns.verdicts["destination_port"]] * (both[0].some | both[1].some)
        if self._dialled is not None:
            known = any(columns.dialled)
            yield (
                self._dialled.of(columns.dialled) if known else np.repeat(self._dialled.of([""]), len(columns.verdicts))
            )
        for networks in self._networks:
            for words in both:
                yield networks.of(words)

    def _decide(self, kinds: Int64Array, records: Records, possible: Masks) -> None:
        """Those that are new, by the first record of each; only routes that its template leaves are asked."""
        found, first = np.unique(kinds, return_index=True)
        new = found >= len(self._decided)
        masks = np.zeros(int(found[-1]) + 1, np.uint64)
        masks[: len(self._decided)] = self._decided
        for kind, row in zip(found[new].tolist(), first[new].tolist(), strict=True):
            left = int(possible[row])
            if left:
                flow = orjson.loads(records.values[row])
                masks[kind] = sum(one.fits(flow) << bit for bit, one in enumerate(self._matchers) if left >> bit & 1)
        self._decided = masks

    def _sampled(self, masks: Masks, columns: RecordColumns) -> Masks:
        """Allowed connections that are in no sample taken out."""
        for bit, limit in self._limits:
            chosen = np.flatnonzero(masks & np.uint64(bit))
            if len(chosen):
                allowed = np.array([one.allowed for one in columns.templates.of(columns.template[chosen])])
                out = allowed & (sampling.hashes(columns.verdicts[chosen]) >= np.uint64(limit))
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

    def of(self, values: Sequence[T]) -> Int64Array:
        """The kind of each."""
        if len(self._known) > _CACHED:
            self._known.clear()
        for value in set(values) - self._known.keys():
            self._known[value] = self._numbers.setdefault(self._kind_of(value), len(self._numbers))
        return np.fromiter(map(self._known.__getitem__, values), np.int64, len(values))


class _TemplateKinds:
    """Templates are many, and new ones come with each change in the cluster; what they are made of is little.

    A template says much of its rows: what their verdict, policies and node are, and which pod's they are. Routes that
    want others are ruled out for all of them here, before anything is looked up."""

    def __init__(self, matchers: Sequence[Matcher], blocks: Sequence[Block], ends: _Kinds[str]) -> None:
        self._matchers, self._ends = matchers, ends
        self._abouts = _Kinds[str](lambda text: _of_record(blocks, orjson.loads(text)))
        self._numbers: dict[Hashable, int] = {}
        self.possible: Masks = np.empty(0, np.uint64)
        """For each kind the routes that may take a row of it, a bit each."""

    def __call__(self, templates: Sequence[Template]) -> Int64Array:
        """The kind of each."""
        abouts = self._abouts.of([one.about for one in templates]).tolist()
        locals_ = self._ends.of([one.local for one in templates]).tolist()
        numbers: list[int] = []
        possible: list[int] = []
        for about, local, template in zip(abouts, locals_, templates, strict=True):
            kind = (about, local, template.plain)
            number = self._numbers.setdefault(kind, len(self._numbers))
            if number == len(self.possible) + len(possible):
                possible.append(self._left(orjson.loads(template.about), orjson.loads(template.local)))
            numbers.append(number)
        self.possible = np.concatenate([self.possible, np.array(possible, np.uint64)])
        return np.array(numbers, np.int64)

    def _left(self, about: Any, local: Any) -> int:
        return sum(
            any(block.possible(about, local) for block in one.wanted) << bit for bit, one in enumerate(self._matchers)
        )


class _Pairs:
    """Pairs of numbers to numbers; those of low ones by a table."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._table = np.full((1, 1), -1, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, left: Int64Array, right: Int64Array) -> Int64Array:
        """The number of each pair."""
        rows, columns = int(left.max()) + 1, int(right.max()) + 1
        if rows > self._table.shape[0] or columns > self._table.shape[1]:
            rows, columns = (_power(max(sizes)) for sizes in zip((rows, columns), self._table.shape, strict=True))
            if rows * columns > _CELLS:
                return self._each(left, right)
            self._table = np.full((rows, columns), -1, np.int64)
        found: Int64Array = self._table[left, right]
        new = found < 0
        if new.any():
            found[new] = self._table[left[new], right[new]] = self._each(left[new], right[new])
        return found

    def _each(self, left: Int64Array, right: Int64Array) -> Int64Array:
        numbers = self._numbers
        pairs = (left << 32 | right).tolist()
        return np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs], np.int64)


def _of_record(blocks: Sequence[Block], flow: Any) -> Hashable:
    return (
        flow["connection"]["direction"],
        flow.get("aggregated", False),
        tuple(all(one.holds(flow) for one in block.about) for block in blocks),
    )


def _of_end(ends: Sequence[EndTest], end: Any) -> Hashable:
    return tuple(one.named(end) for one in ends)


def _power(size: int) -> int:
    """The power of two that is not below it."""
    return 1 << (size - 1).bit_length()


class _Words:
    """Addresses as numbers; IPv4 lies among those of IPv6 here (::ffff:0:0/96), and is in none of its networks."""

    def __init__(self, addresses: np.ndarray[Any, Any]) -> None:
        words = sampling.words(addresses)
        self.high, self.low = words[:, 0], words[:, 1]
        self.some = (self.high | self.low) != 0
        mapped = (self.high == 0) & (self.low & _FOUR_MASK == _FOUR)
        self.of_version = {4: mapped, 6: ~mapped}


class _Networks:
    """Which of some networks an address is in, a bit each."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._rules = [
            (1 << bit, network.version, *_words(network.netmask), *_words(network.network_address))
            for bit, network in enumerate(networks)
        ]

    def of(self, words: _Words) -> Int64Array:
        """The kind of each. No address is in no network."""
        kinds = np.zeros(len(words.low), np.int64)
        for bit, version, high_mask, low_mask, high, low in self._rules:
            inside = words.of_version[version] & (words.low & low_mask == low)
            if version == 6:
                inside &= words.high & high_mask == high
            kinds |= (inside & words.some) * np.int64(bit)
        return kinds


def _words(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[np.uint64, np.uint64]:
    """The two numbers of an address or a mask, IPv4 behind its prefix, whose own mask is all ones."""
    packed = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
    high, low = np.frombuffer(packed, "<u8")
    return high, low


_FOUR: Final = _words(ipaddress.IPv4Address(0))[1]
_FOUR_MASK: Final = np.frombuffer(b"\xff\xff\xff\xff\0\0\0\0", "<u8")[0]


def _port_kinds(ranges: Sequence[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each port the number of the stretch that it is in, from 1: all ranges begin and end between stretches."""
    turns = np.zeros(65537, np.int64)
    for first, last in ranges:
        turns[first] = turns[last + 1] = 1
    return 1 + np.cumsum(turns[:65536])
