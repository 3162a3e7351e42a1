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
verdicts; in production it is a few times for millions. A verdict costs some lookups in arrays, and no Python object.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np

from enrich.render.enricher import Records
from enrich.render.flow_columns import FlowColumns
from enrich.render.fragments import RenderedEnd
from enrich.render.interning import Int64Array, InternMap
from enrich.render.template import Template
from enrich.wire.flow import Decision, Dialled, End
from streams.matching import sampling
from streams.matching.matcher import Condition, ConditionSet, EndConditions, Matcher
from streams.routes.classes import MAX_CACHED, Addresses, ClassTable, Networks, PairTable, port_classes

_NETWORKS_PER_COLUMN: Final = 8
"""A bit each. With few bits most combinations are small numbers, which a table can look up."""
_end: Callable[[RenderedEnd], End] = attrgetter("end")
RouteMasks = np.ndarray[Any, np.dtype[np.uint64]]


class Classifier:
    """Says of each record which routes take it. Not thread safe, because it fills its caches while it answers."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        """The place of a matcher is its bit in the masks."""
        self._matchers = matchers
        sets = [one for matcher in matchers for one in (*matcher.included, *matcher.excluded)]
        ends = [end for one in sets for end in one.ends]
        end_classes = ClassTable[RenderedEnd, End](lambda end: _answers_about_end(ends, end))
        self._template_classes = _TemplateClasses(matchers, sets, end_classes)
        self._templates = InternMap[Template](self._template_classes)
        self._peers = InternMap[RenderedEnd](lambda peers: end_classes.of(peers, _end))
        ranges = [given for one in sets for given in one.ports]
        self._port_classes = port_classes(ranges) if ranges else None
        services = [one.service for one in sets if one.service]
        self._dialled_classes = (
            ClassTable[str, Dialled | None](lambda dialled: self._answers_about_dialled(services, dialled))
            if services or ranges
            else None
        )
        networks = tuple(dict.fromkeys(network for end in ends for network in end.networks))
        self._networks = [
            Networks(networks[first : first + _NETWORKS_PER_COLUMN])
            for first in range(0, len(networks), _NETWORKS_PER_COLUMN)
        ]
        self._sample_limits = [
            (1 << bit, sampling.limit(one.sample)) for bit, one in enumerate(matchers) if one.sample < 1
        ]
        self._forget_classes()

    def _forget_classes(self) -> None:
        self._pair_tables: list[PairTable] = []
        self._decided: RouteMasks = np.empty(0, np.uint64)

    def masks(self, records: Records) -> RouteMasks:
        """Return for each record the routes that take it, a bit each."""
        columns = records.columns
        if columns is None or not self._matchers:
            return np.zeros(len(records.values), np.uint64)
        if len(self._decided) > MAX_CACHED or any(len(one) > MAX_CACHED for one in self._pair_tables):
            self._forget_classes()
        templates = self._templates.of(columns.templates, columns.template)
        possible = self._template_classes.possible[templates]
        if not possible.any():
            return possible
        classes = self._classes(templates, columns)
        if int(classes.max()) >= len(self._decided):
            self._decide(classes, columns, possible)
        masks = self._decided[classes]
        return self._sampled(masks, columns) if self._sample_limits else masks

    def _classes(self, classes: Int64Array, columns: FlowColumns) -> Int64Array:
        """Return the class of each verdict. ``classes`` are those of the templates, the first column."""
        for place, column in enumerate(self._columns(columns)):
            if place == len(self._pair_tables):
                self._pair_tables.append(PairTable())
            classes = self._pair_tables[place].of(classes, column)
        return classes

    def _columns(self, columns: FlowColumns) -> Iterator[Int64Array]:
        """Yield the other columns of numbers, always the same ones in the same order."""
        verdicts = columns.batch.verdicts
        yield self._peers.of(columns.peers, columns.peer)
        if self._port_classes is not None or self._networks:
            addresses = [Addresses(verdicts[name]) for name in ("source", "destination")]
        if self._port_classes is not None:
            # A verdict without any address was not parsed, and its record has no ports.
            known = addresses[0].known | addresses[1].known
            yield self._port_classes[verdicts["destination_port"]] * known
        if self._dialled_classes is not None:
            value_of = columns.dialled_values.get
            if any(columns.dialled):
                yield self._dialled_classes.of(columns.dialled, value_of)
            else:
                yield np.repeat(self._dialled_classes.of([""], value_of), len(verdicts))
        for networks in self._networks:
            for one in addresses:
                yield networks.of(one)

    def _decide(self, classes: Int64Array, columns: FlowColumns, possible: RouteMasks) -> None:
        """Ask the matchers about the first record of each new class. ``possible`` are the routes that may take it."""
        found, first = np.unique(classes, return_index=True)
        new = found >= len(self._decided)
        masks = np.zeros(int(found[-1]) + 1, np.uint64)
        masks[: len(self._decided)] = self._decided
        for number, place in zip(found[new].tolist(), first[new].tolist(), strict=True):
            left = int(possible[place])
            if left:
                flow = columns.flow(place)
                masks[number] = sum(one.fits(flow) << bit for bit, one in enumerate(self._matchers) if left >> bit & 1)
        self._decided = masks

    def _sampled(self, masks: RouteMasks, columns: FlowColumns) -> RouteMasks:
        """Take out the allowed connections that are not in the sample of a route."""
        for bit, limit in self._sample_limits:
            chosen = np.flatnonzero(masks & np.uint64(bit))
            if len(chosen):
                allowed = np.array([one.allowed for one in columns.templates.of(columns.template[chosen])])
                out = allowed & (sampling.hashes(columns.batch.verdicts[chosen]) >= np.uint64(limit))
                masks[chosen[out]] &= ~np.uint64(bit)
        return masks

    def _answers_about_dialled(self, services: Sequence[Condition], dialled: Dialled | None) -> Hashable:
        if dialled is None:
            return None
        return (
            0 if self._port_classes is None else int(self._port_classes[dialled.port]),
            tuple(service.holds(dialled) for service in services),
        )


class _TemplateClasses:
    """The classes of templates, and the routes that may take a verdict of each.

    New templates come with each change in the cluster, but their decisions and subjects recur. A template says much of
    its verdicts: decision, policies, node and subject. A route that expects others is ruled out for all of them here,
    before anything else is looked up."""

    def __init__(
        self, matchers: Sequence[Matcher], sets: Sequence[ConditionSet], ends: ClassTable[RenderedEnd, End]
    ) -> None:
        self._matchers, self._ends = matchers, ends
        self._decisions = ClassTable[Decision, Decision](lambda decision: _answers_about_decision(sets, decision))
        self._numbers: dict[Hashable, int] = {}
        self.possible: RouteMasks = np.empty(0, np.uint64)
        """For each class the routes that may take a verdict of it, a bit each."""

    def __call__(self, templates: Sequence[Template]) -> Int64Array:
        """Return the class of each template."""
        decisions = self._decisions.of([one.decision for one in templates], lambda decision: decision).tolist()
        subjects = self._ends.of([one.subject for one in templates], _end).tolist()
        numbers: list[int] = []
        possible: list[int] = []
        for decision, subject, template in zip(decisions, subjects, templates, strict=True):
            answers = (decision, subject, template.plain)
            number = self._numbers.setdefault(answers, len(self._numbers))
            if number == len(self.possible) + len(possible):
                possible.append(self._possible(template.decision, template.subject.end))
            numbers.append(number)
        self.possible = np.concatenate([self.possible, np.array(possible, np.uint64)])
        return np.array(numbers, np.int64)

    def _possible(self, decision: Decision, subject: End) -> int:
        return sum(
            any(one.may_hold(decision, subject) for one in matcher.included) << bit
            for bit, matcher in enumerate(self._matchers)
        )


def _answers_about_decision(sets: Sequence[ConditionSet], decision: Decision) -> Hashable:
    return (
        decision.direction,
        decision.aggregated,
        tuple(all(condition.holds(decision) for condition in one.decision) for one in sets),
    )


def _answers_about_end(ends: Sequence[EndConditions], end: End) -> Hashable:
    return tuple(one.fits_end(end) for one in ends)
