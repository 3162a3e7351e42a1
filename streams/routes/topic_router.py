"""Which records go to which topics, with which keys: the Kafka outputs of all routes. It does not talk to Kafka.

Theory of operation
-------------------
1. The :class:`streams.routes.classifier.Classifier` gives each record a mask of the routes that take it.
2. A fixed topic (``topic: databases``) gets all records of its route.
3. A topic with ``{namespace}`` is one topic for each namespace: ``topic: tenant.{namespace}.denied`` sends what the
   pods of ``shop`` are denied to ``tenant.shop.denied``. The namespace is that of the subject, whose policy decided,
   and never that of the peer: a tenant sees what its own policies do.
4. A topic of a namespace is made at most once, only for namespaces that ``namespaces`` lists, and only up to ``limit``
   topics. Topics that exist already and that the route could have made count too; otherwise a restart would reset
   the count. Nobody can make kubeweir write to its own topics by a well-chosen name of a namespace: those are reserved.
5. A record without a topic is counted by reason: ``no_namespace`` (only the node is known), ``not_allowed``, ``limit``.
6. A topic with another ``form`` gets each record in that form. One that cannot have it, because its time is after the
   year 2199, is counted as ``no_form``.
7. With ``format: record`` a record is a Kafka record. With ``format: lines`` the records of one batch and one key are
   joined as lines, up to half a megabyte: far fewer Kafka records, which compress better. Lines of two raw batches
   are never joined, because the offset of a raw batch is committed when all records made from it are acknowledged.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from enrich.render.enricher import Records
from enrich.wire.topics import LARGE, Topic
from streams.config.fields import seconds
from streams.forms import converter
from streams.kafka.record_columns import RecordColumns
from streams.matching.matcher import pattern_test
from streams.matching.model import as_list
from streams.routes.check import NAMESPACE
from streams.routes.classifier import Classifier
from streams.routes.model import Kafka, Routes

Places = Sequence[int]
"""Places of records in :class:`enrich.render.enricher.Records`."""
_MAX_LINES_BYTES: Final = 500_000
"""JSON lines in one Kafka record. A broker takes records of up to a million bytes unless it is configured otherwise."""
_MAX_KNOWN_NAMESPACES: Final = 10_000


@dataclass(frozen=True, slots=True)
class TopicRecords:
    """Records for one topic, in the order of their verdicts."""

    route: str
    topic: Topic
    compression: str
    records: RecordColumns


class _Formed(NamedTuple):
    """Records for one topic, in the form that it takes."""

    places: Places
    values: Sequence[bytes]


class TopicRouter:
    """The Kafka outputs of one routes file. Not thread safe."""

    def __init__(
        self,
        routes: Routes,
        reserved: Collection[str],
        existing: Collection[str],
        count: Callable[[str, str, int], None],
    ) -> None:
        """``reserved`` are the topics that routes must not write, ``existing`` the topics that Kafka has. ``count`` is
        called with the route, the outcome (``routed``, or why a record has no topic) and the number of records."""
        self._count = count
        self._classifier = Classifier([route.matcher() for route in routes.routes])
        self._outputs = [
            (np.uint64(1 << bit), route.name, _TopicOutput(output.kafka, reserved, existing))
            for bit, route in enumerate(routes.routes)
            for output in route.outputs
            if output.kafka is not None
        ]

    def fixed_topics(self) -> Iterator[Topic]:
        """Yield the topics that do not depend on a namespace, and so can be created before the first record."""
        for _, _, output in self._outputs:
            if output.fixed is not None:
                yield output.fixed

    def route(self, records: Records) -> Iterator[TopicRecords]:
        """Yield what the routes send."""
        if not self._outputs:
            return
        masks = self._classifier.masks(records)
        every = int(np.bitwise_or.reduce(masks))
        for bit, name, output in self._outputs:
            if not every & int(bit):
                continue
            chosen = np.flatnonzero(masks & bit).tolist()
            for topic, places in output.by_topic(records, chosen):
                if isinstance(topic, str):
                    self._count(name, topic, len(places))
                    continue
                formed = output.in_form(records, places)
                if len(formed.places) < len(places):
                    self._count(name, "no_form", len(places) - len(formed.places))
                if formed.places:
                    self._count(name, "routed", len(formed.places))
                    yield TopicRecords(name, topic, output.compression, output.kafka_records(records, formed))


class _TopicOutput:
    """One Kafka output of a route."""

    def __init__(self, kafka: Kafka, reserved: Collection[str], existing: Collection[str]) -> None:
        self.compression = kafka.compression
        self._kafka, self._reserved = kafka, reserved
        self.fixed = None if NAMESPACE in kafka.topic else self._topic(kafka.topic)
        self._allowed = pattern_test(as_list(kafka.namespaces))
        before, _, after = kafka.topic.partition(NAMESPACE)
        self._made = {
            name for name in existing if self.fixed is None and name.startswith(before) and name.endswith(after)
            and self._allowed(name[len(before) : len(name) - len(after)])
        }  # fmt: skip
        self._by_namespace: dict[str, Topic | str] = {}
        key = kafka.key or ("pod" if kafka.format == "record" else "node")
        self._convert = converter(kafka.form)
        self._keys: Callable[[Records, Places], Sequence[bytes | None]] = _KEYS[key]

    def by_topic(self, records: Records, chosen: Places) -> Iterable[tuple[Topic | str, Places]]:
        """Return each topic with the records for it. A text instead of a topic says why those records have none."""
        if self.fixed is not None:
            return [(self.fixed, chosen)]
        found: defaultdict[str, list[int]] = defaultdict(list)
        keys = records.keys
        for place in chosen:
            found[_namespace(keys[place])].append(place)
        return [(self._topic_of(namespace), places) for namespace, places in found.items()]

    def in_form(self, records: Records, places: Places) -> _Formed:
        """Return the records at some places in the form of this output, without those that cannot have it."""
        values = [records.values[place] for place in places]
        if self._convert is None:
            return _Formed(places, values)
        found: list[tuple[int, bytes]] = []
        for place, value in zip(places, values, strict=True):
            with contextlib.suppress(ValueError):
                found.append((place, self._convert(value)))
        return _Formed([place for place, _ in found], [value for _, value in found])

    def kafka_records(self, records: Records, formed: _Formed) -> RecordColumns:
        """Return the Kafka records that carry some records."""
        places, values = formed
        if self._kafka.format == "lines":
            columns = list(zip(*self._lines(records, formed), strict=True))
            return RecordColumns(*columns)
        times, owners = records.times_ms, records.owners
        return RecordColumns(
            self._keys(records, places),
            values,
            [times[place] for place in places],
            [owners[place] for place in places],
        )

    def _lines(self, records: Records, formed: _Formed) -> Iterator[tuple[bytes | None, bytes, int, int]]:
        """Yield key, value, time in milliseconds and owner of each Kafka record. Lines in one have the same key and
        owner."""
        by_key: defaultdict[tuple[int, bytes | None], list[tuple[int, bytes]]] = defaultdict(list)
        keys = self._keys(records, formed.places)
        for place, value, key in zip(*formed, keys, strict=True):
            by_key[records.owners[place], key].append((place, value))
        for (owner, key), members in by_key.items():
            lines: list[bytes] = []
            size, at = 0, records.times_ms[members[0][0]]
            for place, value in members:
                if lines and size + len(value) > _MAX_LINES_BYTES:
                    yield key, b"\n".join(lines), at, owner
                    lines, size, at = [], 0, records.times_ms[place]
                lines.append(value)
                size += len(value) + 1
            yield key, b"\n".join(lines), at, owner

    def _topic_of(self, namespace: str) -> Topic | str:
        known = self._by_namespace.get(namespace)
        if known is None:
            known = self._decide(namespace)
            if len(self._by_namespace) < _MAX_KNOWN_NAMESPACES:
                self._by_namespace[namespace] = known
        return known

    def _decide(self, namespace: str) -> Topic | str:
        """Return the topic of a namespace, or why it has none."""
        if not namespace:
            return "no_namespace"
        name = self._kafka.topic.replace(NAMESPACE, namespace)
        if not self._allowed(namespace) or name in self._reserved:
            return "not_allowed"
        if name not in self._made and len(self._made) >= self._kafka.limit:
            return "limit"
        self._made.add(name)
        return self._topic(name)

    def _topic(self, name: str) -> Topic:
        config = {"cleanup.policy": "delete", "retention.ms": str(seconds(self._kafka.retention) * 1000)}
        if self._kafka.format == "lines":
            config["max.message.bytes"] = LARGE
        return Topic(name, self._kafka.partitions, config, "`partitions` of its output in the routes file")


def _namespace(key: bytes) -> str:
    """Return the namespace in the key of a record; empty if only the node of the verdict is known."""
    namespace, slash, _ = key.partition(b"/")
    return namespace.decode() if slash else ""


def _pods(records: Records, places: Places) -> Sequence[bytes]:
    keys = records.keys
    return [keys[place] for place in places]


def _nodes(records: Records, places: Places) -> Sequence[bytes]:
    nodes = [header.node.encode() for header in records.columns.batch.headers] if records.columns is not None else []
    owners = records.owners
    return [nodes[owners[place]] for place in places]


_KEYS: Final[dict[str, Callable[[Records, Places], Sequence[bytes | None]]]] = {
    "pod": _pods,
    "namespace": lambda records, places: [key.partition(b"/")[0] for key in _pods(records, places)],
    "node": _nodes,
    "none": lambda _, places: [None] * len(places),
}
