"""Gives each verdict of a merged batch the number of its combination, without looking at single verdicts.

THEORY OF OPERATION

The enricher has a template number and a peer number for each verdict already. Many templates differ only in the pod,
and many peers are pods of one workload. So:

1. Each template is mapped to a *subject class* once, and each peer to a *peer class*: numbers of what a combination has
   of them.
2. Subject class and peer class make one column of 64 bits, port and Service another.
3. A table, whose places are chosen by a hash of both columns, has the number of each combination that was met lately.
   The columns of a place are compared as a whole, so two combinations are never taken for one. A second table has
   those whose place was taken. Both grow with the combinations of the hour.
4. What the tables do not have is looked up in a dictionary. A combination that is new in this hour passes the bounds
   of :mod:`streams.worker.pair_limits`.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from enrich.render.flow_columns import FlowColumns
from enrich.render.fragments import RenderedEnd
from enrich.render.interning import Int64Array, InternMap
from enrich.render.template import Template
from enrich.wire.flow import Dialled
from enrich.wire.pair import MAX_EXAMPLES, MAX_RULES, PairEnd, PairKey
from enrich.wire.pair_records import CHUNK
from streams.worker.pair_limits import WORKLOADS_SHARE, HourLimits, any_peer
from streams.worker.pair_ports import server_ports
from streams.worker.pair_table import PairTable

_LEAST_BITS, _MOST_BITS = 14, 19
_PLACES_OF_COMBINATION: Final = 4
_FACTORS: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_SERVICES: Final = 1 << 15
_SERVICE_PATH: Final = re.compile(r"[a-z0-9][-a-z0-9]*/[a-z0-9][-a-z0-9.]*")
SUBJECT_BYTES, PEER_BYTES, RULE_BYTES, SERVICE_BYTES = 500, 280, 160, 140
"""What a class of subjects or peers takes beside its names, a rule of a subject, and a Service, about: measured."""
_NO_PEER: Final = PairEnd()


class _Subject(NamedTuple):
    """What a combination has of a template."""

    end: PairEnd
    direction: Any
    protocol: int
    verdict: Any
    reason: str
    rules: tuple[Any, ...]

    def key(self, peer: PairEnd = _NO_PEER, port: int = 0, service: str = "") -> PairKey:
        """Return the combination of the subject with a peer."""
        return PairKey(
            subject=self.end, peer=peer, direction=self.direction, protocol=self.protocol, port=port,
            verdict=self.verdict, reason=self.reason, policies=self.rules, service=service,
        )  # fmt: skip


class Combinations:
    """The combinations of one segment, numbered from 0 on. Not thread safe."""

    def __init__(self, limits: HourLimits, limit: int = 200_000) -> None:
        """``limit``: combinations that pass the bounds in an hour; it also bounds what is kept of ends."""
        self.keys: list[PairKey] = []
        self.examples: list[tuple[str, ...]] = []
        """For each combination, the ids of the first records that have it."""
        self.changed_chunks: set[int] = set()
        """Chunks with new combinations or new examples."""
        self._limits, self._limit = limits, limit
        self._number_of: dict[PairKey, int] = {}
        self._subjects: dict[_Subject, int] = {}
        self._subject_list: list[_Subject] = []
        self._peers: dict[PairEnd, int] = {}
        self._peer_list: list[PairEnd] = []
        self.class_bytes = 0
        """About how many bytes the classes and Services take. They are made of ends, which may be many more than the
        combinations that pass the bounds."""
        self._services: dict[str, int] = {"": 0}
        self._service_list = [""]
        self._service_of_text: dict[str, int] = {"": 0}
        self._subject_of: InternMap[Template] = InternMap(self._map_subjects)
        self._peer_of: InternMap[RenderedEnd] = InternMap(self._map_peers)
        self.begin_hour()

    def begin_hour(self) -> None:
        """Let each combination pass the bounds once more."""
        self._known: dict[tuple[int, int], int] = {}
        self._known_of: Counter[int] = Counter()
        """How many of them each class of subjects has."""
        self._folded: dict[int, int] = {}
        """For each class of subjects, the number of its combination with any peer."""
        self._empty_tables(_LEAST_BITS)

    def _empty_tables(self, bits: int) -> None:
        self._bits = bits
        self._first, self._second = PairTable(bits), PairTable(bits)

    @property
    def classes(self) -> int:
        """How many classes of subjects and peers are in memory."""
        return len(self._subject_list) + len(self._peer_list)

    def columns(self, columns: FlowColumns) -> tuple[Int64Array, Int64Array]:
        """Return the two columns that tell combinations apart: the ends of each record, and its port and Service."""
        ends = self._subject_of.of(columns.templates, columns.template) << 32
        ends |= self._peer_of.of(columns.peers, columns.peer)
        ports = server_ports(columns.batch.verdicts)
        # An address that is not zero has a low half that is not: the high one of IPv4 is.
        if columns.batch.verdicts["dialled"].view("<u8")[:, 1].any():
            ports |= self._services_of(columns.dialled, columns.dialled_values) << 16
        return ends, ports

    def numbers(self, batches: Sequence[FlowColumns], ends: Int64Array, ports: Int64Array) -> Int64Array:
        """Return the number of the combination of each record of some batches, one after the other, by the columns of
        all of them."""
        hashes = (ends.view(np.uint64) * _FACTORS[0]) ^ (ports.view(np.uint64) * _FACTORS[1])
        numbers, missing = self._first.find((hashes >> np.uint64(64 - self._bits)).view(np.int64), ends, ports)
        if len(missing):
            self._find_elsewhere(batches, numbers, missing, hashes, ends, ports)
        return numbers

    def _find_elsewhere(
        self, batches: Sequence[FlowColumns], numbers: Int64Array, missing: Int64Array, hashes: Any, ends: Any,
        ports: Any,
    ) -> None:  # fmt: skip
        """Fill in the numbers that the first table does not have."""
        ends, ports, bits = ends[missing], ports[missing], np.uint64(self._bits)
        places = (hashes[missing] << bits >> np.uint64(64 - self._bits)).view(np.int64)
        found, still = self._second.find(places, ends, ports)
        if len(still):
            new_ends, new_ports = ends[still], ports[still]
            found[still] = self._look_up(batches, missing[still], new_ends.tolist(), new_ports.tolist())
            first = (hashes[missing[still]] >> np.uint64(64 - self._bits)).view(np.int64)
            is_free = self._first.is_free(first)
            for table, at, chosen in ((self._first, first, is_free), (self._second, places[still], ~is_free)):
                table.put(at[chosen], new_ends[chosen], new_ports[chosen], found[still][chosen])
            if len(self._known) * _PLACES_OF_COMBINATION > 1 << self._bits and self._bits < _MOST_BITS:
                self._empty_tables(self._bits + 1)
        numbers[missing] = found

    def _look_up(
        self, batches: Sequence[FlowColumns], places: Int64Array, ends: Sequence[int], ports: Sequence[int]
    ) -> list[int]:
        found = []
        begins = list(itertools.accumulate((len(columns.template) for columns in batches), initial=0))
        for place, key in zip(places.tolist(), zip(ends, ports, strict=True), strict=True):
            number = self._known.get(key)
            if number is None:
                number = self._new(*key)
            if len(self.examples[number]) < MAX_EXAMPLES:
                batch = bisect_right(begins, place) - 1
                self._add_example(number, batches[batch], place - begins[batch])
            found.append(number)
        return found

    def _new(self, ends: int, ports: int) -> int:
        """Return the number of a combination that is new in this hour.

        A pod that scans addresses or ports makes a new one with each packet, so what passes the bounds is itself
        bounded: for each class of subjects, so that one scan does not change how others are counted."""
        subject = ends >> 32
        if self._known_of[subject] < self._limit // WORKLOADS_SHARE and len(self._known) < 2 * self._limit:
            self._known_of[subject] += 1
            number = self._known[ends, ports] = self._number(ends, ports)
            return number
        folded = self._folded.get(subject)
        if folded is None:
            of = self._subject_list[subject]
            self._limits.note("workload")
            folded = self._folded[subject] = self._number_of_key(any_peer(of.key(), of.end))
        return folded

    def _add_example(self, number: int, columns: FlowColumns, place: int) -> None:
        batch = columns.batch
        example = f"{batch.headers[batch.owner[place]].ring}-{batch.numbers[place]}"
        if example not in self.examples[number]:
            self.examples[number] += (example,)
            self.changed_chunks.add(number // CHUNK)

    def _number(self, ends: int, ports: int) -> int:
        subject, peer = self._subject_list[ends >> 32], self._peer_list[ends & 0xFFFFFFFF]
        key = subject.key(peer, ports & 0xFFFF, self._service_list[ports >> 16])
        return self._number_of_key(self._limits.bounded(key))

    def _number_of_key(self, key: PairKey) -> int:
        number = self._number_of.get(key)
        if number is None:
            number = self._number_of[key] = len(self.keys)
            self.keys.append(key)
            self.examples.append(())
            self.changed_chunks.add(number // CHUNK)
        return number

    def _map_subjects(self, templates: Sequence[Template]) -> Int64Array:
        return np.array([self._class_of_subject(one) for one in templates], np.int64)

    def _class_of_subject(self, template: Template) -> int:
        decision = template.decision
        subject = _Subject(
            pair_end(template.subject), decision.direction, 0 if decision.aggregated else template.protocol,
            decision.disposition, decision.reason, template.rules[:MAX_RULES],
        )  # fmt: skip
        if not _is_readable(subject.key()):
            self._limits.note("invalid")
            subject = subject._replace(end=PairEnd(unknown=True), rules=())
        number = self._subjects.setdefault(subject, len(self._subjects))
        if number == len(self._subject_list):
            self._subject_list.append(subject)
            self.class_bytes += SUBJECT_BYTES + _length(subject.end) + RULE_BYTES * len(subject.rules)
        return number

    def _map_peers(self, peers: Iterable[RenderedEnd]) -> Int64Array:
        return np.array([self._class_of_peer(pair_end(one)) for one in peers], np.int64)

    def _class_of_peer(self, end: PairEnd) -> int:
        if len(self._peers) > 2 * self._limit and end not in self._peers:
            # Addresses outside the cluster are as many as somebody wants.
            self._limits.note("addresses")
            end = PairEnd(unknown=True, coarse=True)
        elif end not in self._peers and not _is_readable(end):
            self._limits.note("invalid")
            end = PairEnd(unknown=True)
        number = self._peers.setdefault(end, len(self._peers))
        if number == len(self._peer_list):
            self._peer_list.append(end)
            self.class_bytes += PEER_BYTES + _length(end)
        return number

    def _services_of(self, texts: Sequence[str], values: Any) -> Int64Array:
        """Return the number of the Service that each record names as dialled; 0 for none."""
        found = self._known_services(texts)
        if len(found) and found.min() < 0:
            if len(self._service_of_text) > _SERVICES:
                self._service_of_text = {"": 0}
            for text in set(texts) - self._service_of_text.keys():
                self._service_of_text[text] = self._service(values.get(text))
            found = self._known_services(texts)
        return found

    def _known_services(self, texts: Sequence[str]) -> Int64Array:
        known = self._service_of_text.get
        return np.fromiter(map(known, texts, itertools.repeat(-1)), np.int64, len(texts))

    def _service(self, dialled: Dialled | None) -> int:
        path = dialled.service.path if dialled is not None and dialled.service is not None else ""
        if path and not _SERVICE_PATH.fullmatch(path):
            path = ""
        if path not in self._services and len(self._services) >= _SERVICES:
            return 0
        number = self._services.setdefault(path, len(self._services))
        if number == len(self._service_list):
            self._service_list.append(path)
            self.class_bytes += SERVICE_BYTES + len(path)
        return number


def pair_end(rendered: RenderedEnd) -> PairEnd:
    """Return what a combination has of an end."""
    end = rendered.end
    if end.ambiguous:
        return PairEnd(unknown=True)
    if end.pod_name:
        known: dict[str, Any] = {"profile": rendered.profile} if rendered.profile else {"unknown": True}
        return PairEnd(namespace=end.namespace, workload=end.workload, **known)
    if end.node_name:
        return PairEnd(node=end.node_name)
    if end.instance:
        return PairEnd(block=f"{end.instance}/{128 if ':' in end.instance else 32}")
    return PairEnd(unknown=True)


def _length(end: PairEnd) -> int:
    return len(end.namespace) + len(end.workload) + len(end.node) + len(end.profile)


def _is_readable(made: PairKey | PairEnd) -> bool:
    """Return whether readers take it: one name that they refuse would cost them the whole chunk, and whoever creates a
    pod chooses its owner's kind."""
    try:
        msgspec.convert(msgspec.to_builtins(made), type(made))
    except msgspec.ValidationError:
        return False
    return True
