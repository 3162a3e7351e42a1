"""Which routes take which records, decided once for each class of records instead of once for each record.

Theory of operation
-------------------
Two verdicts are in one class if no condition of any route can tell them apart. All records of a class therefore go the
same way, and :mod:`streams.matching.matcher` is asked about the first record of each class only. Nothing here decides
anything itself, so the answer is exact. It works like this:

1. Each part of a verdict that a condition can look at becomes a small number, looked up once for each distinct value:
   its template (decision and subject), its peer, its destination port, the address that was dialled, and the networks
   that its two addresses are in. Equal numbers mean that every condition answers alike.
2. The columns of numbers are combined two at a time. Each new pair of numbers gets the next free number, so that the
   last column holds the class of each verdict.
3. A table says for each class which routes take it: one bit for each route. New classes are decided by the matcher.
4. Samples depend on the connection, not on the class. They are applied at the end, to the records that a sampled route
   took.

An example with two routes, ``denied`` (``{verdict: deny}``, bit 0) and ``office`` (``{port: 8000-8999, peer: {cidr:
203.0.113.0/24}}``, bit 1). The range cuts the ports into three stretches: 0-7999 is 1, 8000-8999 is 2, 9000-65535 is 3.

====================================== ======== ==== ==== ======= ======= ===== ======
verdict                                template peer port source  dest    class routes
====================================== ======== ==== ==== ======= ======= ===== ======
allow egress web-1 -> 203.0.113.9:8080 0        0    2    0       1       0     0b10
allow egress web-2 -> 203.0.113.7:8443 0        0    2    0       1       0     0b10
deny egress web-1 -> 203.0.113.9:8080  1        0    2    0       1       1     0b11
allow egress web-1 -> 10.0.0.2:8080    0        0    2    0       0       2     0b00
====================================== ======== ==== ==== ======= ======= ===== ======

No condition looks at names, so web-1 and web-2 have one template class, and the matcher is asked three times for four
verdicts; in production it is a few times for millions. A verdict costs some look-ups in arrays, and no Python object.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
import numpy as np

from enrich.render.enricher import RecordColumns, Records
from enrich.render.interning import Int64Array, InternMap
from enrich.render.template import Template
from enrich.wire.flow import Connection, Decision, Dialled, End, NamedPolicy, decode_flow
from enrich.wire.mapped_address import packed
from streams.matching import sampling
from streams.matching.matcher import ConditionSet, EndConditions, Matcher, Network

_CACHED: Final = 200_000
"""Entries that a cache may have. It is emptied then."""
_MAX_TABLE_CELLS: Final = 1 << 22
_NETWORKS_PER_COLUMN: Final = 8
"""A bit each. With few bits most combinations are small numbers, which a table can look up."""
T = TypeVar("T", bound=Hashable)
RouteMasks = np.ndarray[Any, np.dtype[np.uint64]]


class Classifier:
    """Says of each record which routes take it. Not thread safe, because it fills its caches while it answers."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        """The place of a matcher is its bit in the masks."""
        self._matchers = matchers
        sets = [one for matcher in matchers for one in (*matcher.included, *matcher.excluded)]
        ends = [end for one in sets for end in one.ends]
        end_classes = _ClassTable[str](lambda text: _answers_about_end(ends, _end_of(text)))
        self._template_classes = _TemplateClasses(matchers, sets, end_classes)
        self._templates = InternMap[Template](self._template_classes)
        self._peers = InternMap[str](end_classes.of)
        ranges = [given for one in sets for given in one.ports]
        self._port_classes = _classes_of_ports(ranges) if ranges else None
        services = [one for one in sets if one.service]
        self._dialled_classes = (
            _ClassTable[str](lambda text: self._answers_about_dialled(services, text)) if services or ranges else None
        )
        networks = tuple(dict.fromkeys(network for end in ends for network in end.networks))
        self._networks = [
            _Networks(networks[first : first + _NETWORKS_PER_COLUMN])
            for first in range(0, len(networks), _NETWORKS_PER_COLUMN)
        ]
        self._sample_limits = [
            (1 << bit, sampling.limit(one.sample)) for bit, one in enumerate(matchers) if one.sample < 1
        ]
        self._forget_classes()

    def _forget_classes(self) -> None:
        self._pair_tables: list[_PairTable] = []
        self._decided: RouteMasks = np.empty(0, np.uint64)

    def masks(self, records: Records) -> RouteMasks:
        """Return for each record the routes that take it, a bit each."""
        columns = records.columns
        if columns is None or not self._matchers:
            return np.zeros(len(records.values), np.uint64)
        if len(self._decided) > _CACHED or any(len(one) > _CACHED for one in self._pair_tables):
            self._forget_classes()
        templates = self._templates.of(columns.templates, columns.template)
        possible = self._template_classes.possible[templates]
        if not possible.any():
            return possible
        classes = self._classes(templates, columns)
        if int(classes.max()) >= len(self._decided):
            self._decide(classes, records, possible)
        masks = self._decided[classes]
        return self._sampled(masks, columns) if self._sample_limits else masks

    def _classes(self, classes: Int64Array, columns: RecordColumns) -> Int64Array:
        """Return the class of each verdict. ``classes`` are those of the templates, the first column."""
        for place, column in enumerate(self._columns(columns)):
            if place == len(self._pair_tables):
                self._pair_tables.append(_PairTable())
            classes = self._pair_tables[place].of(classes, column)
        return classes

    def _columns(self, columns: RecordColumns) -> Iterator[Int64Array]:
        """Yield the other columns of numbers, always the same ones in the same order."""
        yield self._peers.of(columns.peers, columns.peer)
        if self._port_classes is not None or self._networks:
            addresses = [_Addresses(columns.verdicts[name]) for name in ("source", "destination")]
        if self._port_classes is not None:
            # A verdict without any address was not parsed, and its record has no ports.
            known = addresses[0].known | addresses[1].known
            yield self._port_classes[columns.verdicts["destination_port"]] * known
        if self._dialled_classes is not None:
            dialled = columns.dialled
            yield (
                self._dialled_classes.of(dialled)
                if any(dialled)
                else np.repeat(self._dialled_classes.of([""]), len(columns.verdicts))
            )
        for networks in self._networks:
            for one in addresses:
                yield networks.of(one)

    def _decide(self, classes: Int64Array, records: Records, possible: RouteMasks) -> None:
        """Ask the matchers about the first record of each new class. ``possible`` are the routes that may take it."""
        found, first = np.unique(classes, return_index=True)
        new = found >= len(self._decided)
        masks = np.zeros(int(found[-1]) + 1, np.uint64)
        masks[: len(self._decided)] = self._decided
        for number, place in zip(found[new].tolist(), first[new].tolist(), strict=True):
            left = int(possible[place])
            if left:
                flow = decode_flow(records.values[place])
                masks[number] = sum(one.fits(flow) << bit for bit, one in enumerate(self._matchers) if left >> bit & 1)
        self._decided = masks

    def _sampled(self, masks: RouteMasks, columns: RecordColumns) -> RouteMasks:
        """Take out the allowed connections that are not in the sample of a route."""
        for bit, limit in self._sample_limits:
            chosen = np.flatnonzero(masks & np.uint64(bit))
            if len(chosen):
                allowed = np.array([one.allowed for one in columns.templates.of(columns.template[chosen])])
                out = allowed & (sampling.hashes(columns.verdicts[chosen]) >= np.uint64(limit))
                masks[chosen[out]] &= ~np.uint64(bit)
        return masks

    def _answers_about_dialled(self, services: Sequence[ConditionSet], text: str) -> Hashable:
        if not text:
            return None
        dialled = msgspec.json.decode(f"{{{text[1:]}}}", type=_HasDialled)
        return (
            0 if self._port_classes is None else int(self._port_classes[dialled.dialled.port]),
            tuple(one.service is not None and one.service.holds(dialled) for one in services),
        )


class _HasDialled(msgspec.Struct):
    dialled: Dialled


def _end_of(text: str) -> End:
    return msgspec.json.decode(text, type=End)


class _About(msgspec.Struct):
    connection: Connection
    disposition: str
    reason: str
    policies: tuple[NamedPolicy, ...]
    isolated_by: tuple[NamedPolicy, ...]
    node_name: str
    aggregated: bool = False


def _decision_of(text: str) -> Decision:
    about = msgspec.json.decode(text, type=_About)
    return Decision(
        direction=about.connection.direction,
        protocol=about.connection.protocol,
        disposition=about.disposition,
        reason=about.reason,
        policies=about.policies,
        isolated_by=about.isolated_by,
        node_name=about.node_name,
        aggregated=about.aggregated,
    )


class _ClassTable(Generic[T]):
    """The class of each value of a part of verdicts. Values with equal answers to all conditions have one class."""

    def __init__(self, answers_of: Callable[[T], Hashable]) -> None:
        self._answers_of = answers_of
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[T, int] = {}

    def of(self, values: Sequence[T]) -> Int64Array:
        """Return the class of each value."""
        if len(self._known) > _CACHED:
            self._known.clear()
        for value in set(values) - self._known.keys():
            self._known[value] = self._numbers.setdefault(self._answers_of(value), len(self._numbers))
        return np.fromiter(map(self._known.__getitem__, values), np.int64, len(values))


class _TemplateClasses:
    """The classes of templates, and the routes that may take a verdict of each.

    New templates come with each change in the cluster, but their decisions and subjects recur. A template says much of
    its verdicts: decision, policies, node and subject. A route that expects others is ruled out for all of them here,
    before anything else is looked up."""

    def __init__(self, matchers: Sequence[Matcher], sets: Sequence[ConditionSet], ends: _ClassTable[str]) -> None:
        self._matchers, self._ends = matchers, ends
        self._decisions = _ClassTable[str](lambda text: _answers_about_decision(sets, _decision_of(text)))
        self._numbers: dict[Hashable, int] = {}
        self.possible: RouteMasks = np.empty(0, np.uint64)
        """For each class the routes that may take a verdict of it, a bit each."""

    def __call__(self, templates: Sequence[Template]) -> Int64Array:
        """Return the class of each template."""
        decisions = self._decisions.of([one.about for one in templates]).tolist()
        subjects = self._ends.of([one.local for one in templates]).tolist()
        numbers: list[int] = []
        possible: list[int] = []
        for decision, subject, template in zip(decisions, subjects, templates, strict=True):
            answers = (decision, subject, template.plain)
            number = self._numbers.setdefault(answers, len(self._numbers))
            if number == len(self.possible) + len(possible):
                possible.append(self._possible(_decision_of(template.about), _end_of(template.local)))
            numbers.append(number)
        self.possible = np.concatenate([self.possible, np.array(possible, np.uint64)])
        return np.array(numbers, np.int64)

    def _possible(self, decision: Decision, subject: End) -> int:
        return sum(
            any(one.may_hold(decision, subject) for one in matcher.included) << bit
            for bit, matcher in enumerate(self._matchers)
        )


class _PairTable:
    """Numbers pairs of numbers. Pairs of small numbers are looked up in an array, all others in a dict."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._table = np.full((1, 1), -1, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, left: Int64Array, right: Int64Array) -> Int64Array:
        """Return the number of each pair."""
        height, width = int(left.max()) + 1, int(right.max()) + 1
        if height > self._table.shape[0] or width > self._table.shape[1]:
            height, width = (
                _power_of_two(max(sizes)) for sizes in zip((height, width), self._table.shape, strict=True)
            )
            if height * width > _MAX_TABLE_CELLS:
                return self._each(left, right)
            self._table = np.full((height, width), -1, np.int64)
        found: Int64Array = self._table[left, right]
        new = found < 0
        if new.any():
            found[new] = self._table[left[new], right[new]] = self._each(left[new], right[new])
        return found

    def _each(self, left: Int64Array, right: Int64Array) -> Int64Array:
        numbers = self._numbers
        pairs = (left << 32 | right).tolist()
        return np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs], np.int64)


def _answers_about_decision(sets: Sequence[ConditionSet], decision: Decision) -> Hashable:
    return (
        decision.direction,
        decision.aggregated,
        tuple(all(condition.holds(decision) for condition in one.decision) for one in sets),
    )


def _answers_about_end(ends: Sequence[EndConditions], end: End) -> Hashable:
    return tuple(one.fits_end(end) for one in ends)


def _power_of_two(size: int) -> int:
    """Return the smallest power of two that is not below ``size``."""
    return 1 << (size - 1).bit_length()


class _Addresses:
    """A column of addresses as two numbers each. IPv4 is v4-mapped (::ffff:0:0/96) and is in no IPv6 network."""

    def __init__(self, addresses: np.ndarray[Any, Any]) -> None:
        words = sampling.words(addresses)
        self.high, self.low = words[:, 0], words[:, 1]
        self.known = (self.high | self.low) != 0
        mapped = (self.high == 0) & (self.low & _MAPPED_MASK == _MAPPED_PREFIX)
        self.of_version = {4: mapped, 6: ~mapped}


class _Networks:
    """Which of some networks an address is in, a bit each."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = [
            (1 << bit, network.version, *_words(network.netmask), *_words(network.network_address))
            for bit, network in enumerate(networks)
        ]

    def of(self, addresses: _Addresses) -> Int64Array:
        """Return the bits of each address. An address that is not known is in no network."""
        bits = np.zeros(len(addresses.low), np.int64)
        for bit, version, high_mask, low_mask, high, low in self._networks:
            inside = addresses.of_version[version] & (addresses.low & low_mask == low)
            if version == 6:
                inside &= addresses.high & high_mask == high
            bits |= (inside & addresses.known) * np.int64(bit)
        return bits


def _words(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[np.uint64, np.uint64]:
    """Return the two numbers of an address or a mask. IPv4 stands behind the v4-mapped prefix; the prefix of a mask is
    not compared, because the version was."""
    high, low = np.frombuffer(packed(address), "<u8")
    return high, low


_MAPPED_PREFIX: Final = _words(ipaddress.IPv4Address(0))[1]
_MAPPED_MASK: Final = np.frombuffer(b"\xff\xff\xff\xff\0\0\0\0", "<u8")[0]


def _classes_of_ports(ranges: Sequence[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return for each port the number of its stretch, from 1. Every range begins and ends between two stretches."""
    edges = np.zeros(65537, np.int64)
    for first, last in ranges:
        edges[first] = edges[last + 1] = 1
    return 1 + np.cumsum(edges[:65536])
